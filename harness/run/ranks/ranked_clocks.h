// Clocks and energy of every rank's card: each process reads its own.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "harness/record/record.h"
#include "harness/run/ranks/team.h"
#include "harness/run/ranks/wire.h"
#include "harness/run/sampling/clocks.h"

namespace tandem {

RankReading read_rank(ClockReader& clocks);

/// Reads all ranks' cards, between blocks of samples. The block that is given is rank 0's, with whatever holds any card's clock
/// down: the slowest rank's time counts. The team outlives it.
class RankedClocks : public ClockReader {
 public:
  RankedClocks(RankTeam& team, std::unique_ptr<ClockReader> own);

  ClockBlock read() override;
  /// Of any card at the last read(); absent where none could tell.
  std::optional<bool> contended() override;

  /// Into each rank's `clocks`, what its last `blocks` readings say. `mean_sm_mhz` stays as it is.
  void fill(std::vector<RankRecord>& ranks, size_t blocks) const;

 private:
  RankTeam& team_;
  std::unique_ptr<ClockReader> own_;
  std::vector<std::vector<RankReading>> readings_;  // of each rank
};

/// Joules that each rank's card has counted so far. Absent where one has no counter.
std::vector<std::optional<double>> joules_of_ranks(RankTeam& team, const std::optional<double>& own);

}  // namespace tandem
