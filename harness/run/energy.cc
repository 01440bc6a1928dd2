#include "harness/run/energy.h"

#include <fmt/format.h>

#include "harness/base/error.h"

namespace tandem {

using nlohmann::json;

json measure_energy(Workload& workload, const EnergyOptions& options) {
  if (options.window_s < kLeastEnergyWindow_s) {
    throw UsageError(
        fmt::format("energy: a window of {} s is refused; {} s or more, the counter is too coarse",
                    options.window_s, kLeastEnergyWindow_s));
  }
  workload.repeat();
  const auto before = options.joules();
  if (!before)
    return {{"status", "unavailable"}, {"reason", "the card has no energy counter that can be read"}};
  const double start = options.now();
  int64_t repetitions = 0;
  do {
    workload.repeat();
    ++repetitions;
  } while (options.now() - start < options.window_s);
  const auto after = options.joules();
  const double seconds = options.now() - start;
  if (!after || *after <= *before)
    return {{"status", "unavailable"}, {"reason", "the card's energy counter did not move"}};
  const double joules = *after - *before;
  const auto n = static_cast<double>(repetitions);
  return {{"status", "ok"},
          {"reason", nullptr},
          {"joules", joules},
          {"seconds", seconds},
          {"watts", joules / seconds},
          {"repetitions", repetitions},
          {"joules_per_repetition", joules / n},
          {"joules_per_token", options.tokens > 0 ? json(joules / (n * options.tokens)) : json()}};
}

std::function<std::optional<double>()> energy_counter(const NvmlFunctions* functions,
                                                      const std::optional<CardInfo>& card) {
  if (!card) return [] { return std::nullopt; };
  return [functions, index = card->index] { return card_energy_j(functions, index); };
}

}  // namespace tandem
