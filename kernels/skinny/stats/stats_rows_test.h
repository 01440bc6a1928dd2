// What tests of norms by statistics share: the rows of a stream as a norm sees them, in double.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "harness/model/config.h"
#include "kernels/common/device_test.h"
#include "kernels/skinny/skinny.h"

namespace tandem::kernels {

inline bool has_wide() {
  return has_device() && skinny_card().sm90a;
}
#define TANDEM_NEEDS_WIDE() \
  if (!has_wide()) GTEST_SKIP() << "no device of sm_90a"

/// Rows of a stream [m, width] (ld apart) as a norm sees them, in double.
struct NormOf {
  Norm kind;
  double eps;
  std::vector<double> mean, scale;

  NormOf(Norm norm, double epsilon, const std::vector<float>& s, int m, int width, int64_t ld)
      : kind(norm), eps(epsilon) {
    for (int b = 0; b < m; ++b) {
      const float* row = &s[static_cast<size_t>(b * ld)];
      double sum = 0;
      double squares = 0;
      for (int j = 0; j < width; ++j) sum += row[j];
      mean.push_back(kind == Norm::kLayer ? sum / width : 0);
      for (int j = 0; j < width; ++j) squares += (row[j] - mean[b]) * (row[j] - mean[b]);
      scale.push_back(1 / std::sqrt(squares / width + eps));
    }
  }
};

/// Their pairs, [width / 64, m]: mean and squares.
inline std::vector<double> pairs_of(Norm kind, const std::vector<float>& s, int m, int width, int64_t ld) {
  std::vector<double> pairs;
  for (int first = 0; first < width; first += kStatsColumns) {
    for (int b = 0; b < m; ++b) {
      const float* row = &s[static_cast<size_t>(b * ld) + first];
      double mean = 0;
      double squares = 0;
      for (int j = 0; j < kStatsColumns && kind == Norm::kLayer; ++j) mean += row[j] / kStatsColumns;
      for (int j = 0; j < kStatsColumns; ++j) squares += (row[j] - mean) * (row[j] - mean);
      pairs.push_back(mean);
      pairs.push_back(squares);
    }
  }
  return pairs;
}
inline std::vector<float> as_floats(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

}  // namespace tandem::kernels
