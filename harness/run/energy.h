// Energy from the card's own cumulative counter, over windows long enough for its resolution.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "harness/card/nvml.h"
#include "harness/engine/engine.h"

namespace tandem {

/// Under this a window says nothing: the counter moves in steps of some 100 ms.
inline constexpr double kLeastEnergyWindow_s = 5.0;

struct EnergyOptions {
  double window_s = 6.0;
  double tokens = 0;  ///< a repetition makes; 0: joules a repetition only
  /// The counter of each rank's card; absent: it has none.
  std::function<std::vector<std::optional<double>>()> joules;
  std::function<double()> now;  ///< seconds
};

/// Repeats for the window. {"status", "reason", "joules", "seconds", "repetitions", "watts", "joules_per_repetition",
/// "joules_per_token"}, of all cards together, and for several "joules_of_ranks"; "unavailable" where a card has no counter. Throws
/// UsageError for a window under the least.
nlohmann::json measure_energy(Workload& workload, const EnergyOptions& options);

/// The counter of this card through these functions, which outlive it; without a card it reads nothing.
std::function<std::optional<double>()> energy_counter(const NvmlFunctions* functions,
                                                      const std::optional<CardInfo>& card);

}  // namespace tandem
