// What the card in use can run of what the build holds: the one answer to "is this sm_90a?".
#pragma once

#include <string>
#include <string_view>

#include "harness/base/error.h"

namespace tandem::kernels {

struct Capability {
  int major = 0, minor = 0;
};

/// What kernels may use beyond sm_80.
struct Arch {
  bool dependent_launch = false;  ///< programmatic dependent launch: compute capability 9.0 and later
  bool sm90a = false;             ///< clusters, the tensor copy engine and warpgroup products
};

/// `built_for_sm90a`: the build holds code for 90a, which runs on compute capability 9.0 alone: a later card would take
/// code of the same build in which those kernels are compiled away. `asked` is TANDEM_ARCH: sm80 keeps off all of it,
/// sm90 and nothing ask for what there is. Throws UsageError for another value.
constexpr Arch choose_arch(Capability card, bool built_for_sm90a, std::string_view asked) {
  if (asked == "sm80") return {};
  if (!asked.empty() && asked != "sm90")
    throw UsageError("TANDEM_ARCH: '" + std::string(asked) + "' is not allowed; sm80 or sm90");
  return {.dependent_launch = card.major >= 9,
          .sm90a = built_for_sm90a && card.major == 9 && card.minor == 0};
}

/// choose_arch for the current device, this build and the environment as it is now.
Arch current_arch();

/// Of the current device.
int multiprocessors();

}  // namespace tandem::kernels
