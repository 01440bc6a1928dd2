// A slow-down of known size, for duets that test the gate: work that an engine adds to every repetition, so much that the
// median of the case itself grows by the share asked for.
#pragma once

#include <functional>

#include "harness/engine/engine.h"
#include "harness/record/record.h"

namespace tandem {

/// How an amount of work is found. Blocks of repetitions without and with it take turns; each block with it is compared with
/// its two neighbours, so that a drift of the clock cancels. Of a block the second half counts: under a power limit the clock
/// answers to another load within tens of milliseconds. Rounds go on until the standard error of the growth is
/// `enough_percent`, at least min_rounds and for at most max_s.
struct PlantOptions {
  double block_s = 0.1;
  double enough_percent = 0.05;
  int min_rounds = 4;
  double max_s = 1.5;
  std::function<double()> now;  ///< seconds since some fixed point
};

/// Options for an engine: on a CPU a block need not outlast a power limit's answer.
PlantOptions plant_options(EngineTraits engine);

/// Plants `percent` of the median of this workload's repetitions, which it finds by repeating it, and leaves it planted.
/// Where the least work that the engine can add is more, that is planted. Throws Error where the engine adds no work.
PlantedRow plant(Workload& workload, double percent, const PlantOptions& options);

}  // namespace tandem
