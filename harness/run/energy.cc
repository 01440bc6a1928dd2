#include "harness/run/energy.h"

#include <fmt/format.h>

#include "harness/base/error.h"

namespace tandem {

using nlohmann::json;

namespace {

json unavailable(std::string_view why, size_t rank, size_t ranks) {
  return {{"status", "unavailable"},
          {"reason", ranks > 1 ? fmt::format("rank {}: {}", rank, why) : std::string(why)}};
}

}  // namespace

json measure_energy(Workload& workload, const EnergyOptions& options) {
  if (options.window_s < kLeastEnergyWindow_s) {
    throw UsageError(
        fmt::format("energy: a window of {} s is refused; {} s or more, the counter is too coarse",
                    options.window_s, kLeastEnergyWindow_s));
  }
  workload.repeat();
  const auto before = options.joules();
  for (size_t r = 0; r < before.size(); ++r) {
    if (!before[r]) return unavailable("the card has no energy counter that can be read", r, before.size());
  }
  const double start = options.now();
  int64_t repetitions = 0;
  do {
    workload.repeat();
    ++repetitions;
  } while (options.now() - start < options.window_s);
  const auto after = options.joules();
  const double seconds = options.now() - start;
  double joules = 0;
  json of_ranks = json::array();
  for (size_t r = 0; r < before.size(); ++r) {
    if (after.at(r) <= before[r])
      return unavailable("the card's energy counter did not move", r, before.size());
    of_ranks.push_back(*after[r] - *before[r]);
    joules += *after[r] - *before[r];
  }
  const auto n = static_cast<double>(repetitions);
  json line = {{"status", "ok"},
               {"reason", nullptr},
               {"joules", joules},
               {"seconds", seconds},
               {"watts", joules / seconds},
               {"repetitions", repetitions},
               {"joules_per_repetition", joules / n},
               {"joules_per_token", options.tokens > 0 ? json(joules / (n * options.tokens)) : json()}};
  if (of_ranks.size() > 1) line["joules_of_ranks"] = std::move(of_ranks);
  return line;
}

std::function<std::optional<double>()> energy_counter(const NvmlFunctions* functions,
                                                      const std::optional<CardInfo>& card) {
  if (!card) return [] { return std::nullopt; };
  return [functions, index = card->index] { return card_energy_j(functions, index); };
}

}  // namespace tandem
