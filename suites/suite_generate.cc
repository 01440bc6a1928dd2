#include <algorithm>
#include <string_view>

#include "suites/suite_main.h"
#include "suites/tokens_main.h"

int main(int argc, char** argv) {
  const bool tokens = std::find(argv + 1, argv + argc, std::string_view("--tokens")) != argv + argc;
  return tokens ? tandem::tokens_main(argc, argv) : tandem::suite_main(tandem::Suite::kGenerate, argc, argv);
}
