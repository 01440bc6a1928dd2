// `tandem build-info`.
#include <fmt/format.h>

#include "harness/base/error.h"
#include "harness/driver/commands/commands.h"
#include "harness/record/environment.h"

namespace tandem {

int build_info_command() {
  fmt::print("{}\n", build_json().dump());
  return static_cast<int>(ExitCode::kGood);
}

}  // namespace tandem
