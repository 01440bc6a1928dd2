// The plans of all ranks of a tensor-parallel group, run in one process: what a machine without GPUs can say of how a model
// is laid over ranks.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "harness/engine/plan.h"
#include "reference/engine/plan_interpreter.h"

namespace tandem::reference {

/// Which of the ranks that can go on executes its next operation; `ready` rises and is not empty.
using RankOrder = std::function<int(std::span<const int> ready)>;
/// The lowest rank goes as far as it can, then the next one.
RankOrder forward_order();
RankOrder reverse_order();
RankOrder random_order(uint64_t seed);

/// One operation of one rank at a time. A rank that comes to a CommOp waits for the others.
class RankInterpreters {
 public:
  /// Keeps references to the plans, rank r's at r. Throws Error unless they are those of ranks 0, 1, ... of one group and
  /// place their buffers alike, as peers that find each other's buffers at their own offsets need.
  explicit RankInterpreters(std::span<const StepPlan> plans);

  int size() const { return static_cast<int>(ranks_.size()); }
  PlanInterpreter& rank(int r) { return ranks_.at(static_cast<size_t>(r)); }
  const PlanInterpreter& rank(int r) const { return ranks_.at(static_cast<size_t>(r)); }

  /// Runs a section of every rank. Throws Error naming ranks and operations that meet and do not go together, and what
  /// PlanInterpreter::run() throws.
  void run(PlanSection section, const RankOrder& order);
  /// The logits of all ranks' ids together, [batch, vocab].
  Matrix logits() const;

 private:
  void meet(int op);

  std::span<const StepPlan> plans_;
  std::vector<PlanInterpreter> ranks_;
};

}  // namespace tandem::reference
