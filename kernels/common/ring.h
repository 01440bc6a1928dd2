// The place of a producer or a consumer in a ring of stages.
#pragma once

#include <cstdint>

#include "harness/base/host_device.h"

namespace tandem::kernels {

/// The parity flips each time round. A consumer waits for it at a stage's full barrier, a producer for the other one at its
/// empty barrier, which a new barrier answers at once.
template <int Stages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  TANDEM_HD constexpr void advance() {
    if (++stage == Stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

}  // namespace tandem::kernels
