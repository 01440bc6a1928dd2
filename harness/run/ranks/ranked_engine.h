// An engine over several ranks: every call is made on all of them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "harness/card/nvml.h"
#include "harness/engine/engine.h"
#include "harness/record/record.h"
#include "harness/run/ranks/team.h"
#include "harness/run/registry.h"

namespace tandem {

/// What a workload over ranks knows beside the sample: the slowest rank's.
class RankedTimes {
 public:
  virtual ~RankedTimes() = default;
  /// The ranks, each with the median of its own last `samples` repetitions and of what it waited in them, and the mean clock of its
  /// card over the last `blocks` of them, where its engine counts that.
  virtual std::vector<RankRecord> ranks(size_t samples, size_t blocks) const = 0;
  /// Why the replicas' last outputs are not one and the same; empty where they are.
  virtual std::string disagreement() const = 0;
};

/// Rank 0's engine `name`, and the other ranks'. Its workloads are RankedTimes too. The team outlives it.
std::unique_ptr<Engine> make_ranked_engine(RankTeam& team, const EngineRegistry& registry,
                                           const std::string& name, EngineOptions options, int tp, int dp,
                                           const NvmlFunctions* functions = nvml());

/// What a rank other than 0 does: whatever rank 0 says, until rank 0 ends or is gone. The exit code. `functions`: of the cards; null
/// where there are none.
int follow(SocketCommunicator& world, const EngineRegistry& registry, const EngineOptions& options,
           const NvmlFunctions* functions = nvml());

}  // namespace tandem
