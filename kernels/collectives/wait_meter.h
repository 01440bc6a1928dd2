// How long a rank waits for the others inside its collectives: cycles of one multiprocessor, counted by one thread a kernel.
#pragma once

#include <cstdint>
#include <optional>

#include "harness/base/host_device.h"

namespace tandem::kernels {

/// One thread's: it alone counts (`mine`), and only it should read the clock.
struct WaitMeter {
  bool mine = false;
  uint64_t start = 0;
  uint64_t total = 0;

  TANDEM_HD void begin(uint64_t now) { start = now; }
  TANDEM_HD void end(uint64_t now) { total += now - start; }
};

/// Between two readings of the sum, which may have passed 2^64, on a clock of `mhz`. Absent where that is not known.
inline std::optional<double> waited_us(uint64_t before, uint64_t after, std::optional<double> mhz) {
  if (!mhz || !(*mhz > 0)) return std::nullopt;
  return static_cast<double>(after - before) / *mhz;
}

}  // namespace tandem::kernels
