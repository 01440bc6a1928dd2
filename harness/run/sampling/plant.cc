#include "harness/run/sampling/plant.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/stats.h"

namespace tandem {
namespace {

constexpr int kFewestRepetitions = 3;  // of a block
constexpr double kClear = 1.25;        // growth at which the cost of a unit is read off
constexpr double kMostUnits = 1e15;

class Blocks {
 public:
  Blocks(Workload& workload, const PlantOptions& options) : workload_(workload), options_(options) {}

  /// Median time of the second half of a block of repetitions with this much work.
  double block_us(double amount) {
    workload_.plant(amount);
    const double start = options_.now();
    std::vector<double> times;
    do {
      if (options_.now() - start < options_.block_s / 2) times.clear();
      times.push_back(workload_.repeat().total_us);
    } while (times.size() < kFewestRepetitions || options_.now() - start < options_.block_s);
    return median(std::move(times));
  }

  /// What a unit adds, in microseconds: from an amount that shows clearly.
  double unit_us(double without_us) {
    for (double amount = 1; amount < kMostUnits; amount *= 8) {
      workload_.plant(amount);
      std::vector<double> few;
      for (int i = 0; i < kFewestRepetitions; ++i) few.push_back(workload_.repeat().total_us);
      if (median(std::move(few)) < kClear * without_us) continue;
      const double with_us = block_us(amount);
      if (with_us > without_us) return (with_us - without_us) / amount;
    }
    throw Error("plant: work was added and the case did not get slower");
  }

 private:
  Workload& workload_;
  const PlantOptions& options_;
};

}  // namespace

PlantOptions plant_options(EngineTraits engine) {
  PlantOptions options;
  if (engine.on_host) options.block_s = 0.02;
  options.now = [] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  };
  return options;
}

PlantedRow plant(Workload& workload, double percent, const PlantOptions& options) {
  if (!workload.plant(0)) throw Error("plant: this engine adds no work to a case of this kind");
  Blocks run(workload, options);
  run.block_us(0);  // the first repetitions load and warm
  const double start = options.now();
  double before_us = run.block_us(0);
  const double unit = run.unit_us(before_us) / before_us;
  // Growth is `fixed` + unit x amount: what starting the work costs, and what the first reading of a unit missed.
  const double asked = percent / 100;
  double amount = asked / unit, error = std::numeric_limits<double>::infinity();
  std::vector<double> fixed;
  before_us = run.block_us(0);
  while (static_cast<int>(fixed.size()) < options.min_rounds ||
         (100 * error > options.enough_percent && options.now() - start < options.max_s)) {
    const double with_us = run.block_us(amount), after_us = run.block_us(0);
    fixed.push_back(with_us / std::sqrt(before_us * after_us) - 1 - unit * amount);
    before_us = after_us;
    // The least amount is one unit: none at all would start no work, and what starting it costs could not be seen.
    amount = std::max(1.0, (asked - median(fixed)) / unit);
    error = median_error(fixed);  // a block that was disturbed may lie anywhere
  }
  workload.plant(amount);
  return {.percent = percent,
          .grown_percent = 100 * (median(fixed) + unit * amount),
          .standard_error_percent = 100 * error,
          .amount = amount};
}

}  // namespace tandem
