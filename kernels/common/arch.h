// What the card in use can run of what the build holds: the one answer to "is this sm_90a?".
#pragma once

#include <string>
#include <string_view>

#include "harness/base/error.h"

namespace tandem::kernels {

struct Capability {
  int major = 0, minor = 0;
};

/// Does a build for `architectures` (as CMAKE_CUDA_ARCHITECTURES spells them, with commas: "90a", "80,90a-real") hold code for
/// this card? Machine code of N.M runs on N.M and later M; PTX, which is there unless it says "-real", on every later card;
/// both of "a" on their own card alone. A build for what is spelt otherwise ("native") may.
constexpr bool built_for(std::string_view architectures, Capability card) {
  for (size_t from = 0, to = 0; to != std::string_view::npos; from = to + 1) {
    to = architectures.find(',', from);
    std::string_view kind = architectures.substr(from, to - from);
    int number = 0;
    while (!kind.empty() && kind.front() >= '0' && kind.front() <= '9') {
      number = 10 * number + (kind.front() - '0');
      kind.remove_prefix(1);
    }
    const bool alone = kind.starts_with('a');
    if (alone) kind.remove_prefix(1);
    if (number == 0 || !(kind.empty() || kind == "-real" || kind == "-virtual")) return true;
    const int here = 10 * card.major + card.minor;
    const bool code = kind != "-virtual" && card.major == number / 10 && here >= number;
    const bool ptx = kind != "-real" && here >= number;
    if (alone ? here == number : code || ptx) return true;
  }
  return false;
}

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

/// Why no engine runs on this device (from 0), or nothing: it is not there, too old, or this build holds no code for it.
std::string why_unusable(int device);

/// Of the current device.
int multiprocessors();

}  // namespace tandem::kernels
