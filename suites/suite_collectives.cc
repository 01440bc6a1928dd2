#include "suites/suite_main.h"

int main(int argc, char** argv) {
  return tandem::suite_main(tandem::Suite::kCollectives, argc, argv);
}
