// What the card was doing while samples were taken. Read between blocks of samples only: reading NVML inside a timed
// window disturbs it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "harness/card/nvml.h"
#include "harness/record/record.h"

namespace tandem {

class ClockReader {
 public:
  virtual ~ClockReader() = default;
  /// Clock, temperature, power and throttle reasons now; absent what cannot be read.
  virtual ClockBlock read() = 0;
  /// Is a process that is not ours on the card? Absent when that cannot be told.
  virtual std::optional<bool> contended() = 0;
};

/// What the clock did over these blocks of samples, after a warm-up that ended steady or not. Where the device counts its mean
/// clock, the medians of both halves of the blocks may differ by `agreement`, a fraction; NVML's reading of an instant is too
/// coarse to tell. Absent where no clock was read.
std::optional<ClockState> clock_state(const std::vector<ClockBlock>& blocks, bool warmup_steady,
                                      double agreement);

/// For engines without a card: reads nothing.
class NoClocks : public ClockReader {
 public:
  ClockBlock read() override { return {}; }
  std::optional<bool> contended() override { return std::nullopt; }
};

/// The reader of this card through these functions, which outlive it; NoClocks without a card.
std::unique_ptr<ClockReader> make_clock_reader(const NvmlFunctions* functions,
                                               const std::optional<CardInfo>& card);

}  // namespace tandem
