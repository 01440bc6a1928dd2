// Pairs of measurements of one case, without and with a planted slow-down, whose labels are known.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "harness/run/worker.h"

namespace tandem::testing {

struct PlantedPairs {
  double percent = 0;         ///< growth of the case's median: the mean log-ratio of the pairs
  double standard_error = 0;  ///< of percent
  std::vector<PlantedRow> calibrated;
};

/// `n` pairs by the main path of a worker, each from a workload of its own, in ABBA order. The case is not checked.
inline PlantedPairs planted_pairs(const EngineRegistry& registry, const Case& c, double percent, int n) {
  WorkerOptions plain, planted;
  planted.plant_percent = percent;
  Worker workers[2] = {Worker(registry, plain), Worker(registry, planted)};
  const Validation validation = workers[0].validate_case(c);
  EXPECT_EQ(validation.status, Status::kOk) << validation.reason.value_or("");
  PlantedPairs found;
  double sum = 0, squares = 0;
  for (int pair = 0; pair < n; ++pair) {
    double median_us[2] = {};
    for (const int side : {pair % 2, 1 - pair % 2}) {
      const Record r = workers[side].measure_case(c, validation);
      EXPECT_EQ(r.status, Status::kOk) << r.reason.value_or("");
      if (r.status != Status::kOk) return found;
      EXPECT_EQ(r.planted.has_value(), side == 1);
      median_us[side] = r.summary->median_us;
      if (r.planted) found.calibrated.push_back(*r.planted);
    }
    const double log = std::log(median_us[1] / median_us[0]);
    sum += log;
    squares += log * log;
  }
  const double mean = sum / n;
  found.percent = 100 * std::expm1(mean);
  found.standard_error = 100 * std::sqrt((squares / n - mean * mean) / (n - 1));
  return found;
}

}  // namespace tandem::testing
