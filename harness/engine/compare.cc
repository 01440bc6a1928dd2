#include "harness/engine/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace tandem {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double ratio(double difference_squared, double expected_squared) {
  if (difference_squared == 0) return 0;
  return expected_squared == 0 ? kInfinity : std::sqrt(difference_squared / expected_squared);
}

bool same_nonfinite(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) || a == b;
}

std::string describe(const Comparison& c, size_t actual_size) {
  if (!c.same_size) return fmt::format("{} elements where {} were expected", actual_size, c.elements);
  if (c.nonfinite_mismatches > 0) {
    return fmt::format("{} elements are NaN or infinite on one side only, the first at [{}, {}]",
                       c.nonfinite_mismatches, c.first_nonfinite / c.cols, c.first_nonfinite % c.cols);
  }
  if (c.nonfinite_expected > 0)
    return fmt::format("{} expected values are NaN or infinite", c.nonfinite_expected);
  if (c.worst_index < 0) return {};
  return fmt::format("[{}, {}]: expected {:g}, got {:g}; row {} is off by {:.1e}", c.worst_index / c.cols,
                     c.worst_index % c.cols, c.worst_expected, c.worst_actual, c.worst_row, c.worst_row_l2);
}

}  // namespace

Comparison compare(std::span<const float> actual, std::span<const float> expected, int64_t cols) {
  Comparison c;
  c.elements = static_cast<int64_t>(expected.size());
  c.cols = std::max<int64_t>(cols, 1);
  c.same_size = expected.size() == actual.size();
  if (!c.same_size) {
    c.relative_l2 = c.worst_row_l2 = kInfinity;
    c.where = describe(c, actual.size());
    return c;
  }

  double difference = 0, norm = 0, worst = 0;
  for (int64_t row = 0; row * c.cols < c.elements; ++row) {
    double row_difference = 0, row_norm = 0;
    for (int64_t i = row * c.cols; i < std::min((row + 1) * c.cols, c.elements); ++i) {
      const double e = expected[i];
      const double a = actual[i];
      if (!std::isfinite(e)) c.nonfinite_expected += 1;
      if (!std::isfinite(e) || !std::isfinite(a)) {
        if (!same_nonfinite(expected[i], actual[i])) {
          c.nonfinite_mismatches += 1;
          if (c.first_nonfinite < 0) c.first_nonfinite = i;
        }
        continue;
      }
      row_difference += (a - e) * (a - e);
      row_norm += e * e;
      if (std::abs(a - e) > worst) {
        worst = std::abs(a - e);
        c.worst_index = i;
        c.worst_expected = expected[i];
        c.worst_actual = actual[i];
      }
    }
    difference += row_difference;
    norm += row_norm;
    if (const double l2 = ratio(row_difference, row_norm); l2 > c.worst_row_l2) {
      c.worst_row_l2 = l2;
      c.worst_row = row;
    }
  }
  c.relative_l2 =
      c.nonfinite_mismatches > 0 || c.nonfinite_expected > 0 ? kInfinity : ratio(difference, norm);
  c.where = describe(c, actual.size());
  return c;
}

bool Comparison::within(double tolerance) const {
  return same_size && nonfinite_expected == 0 && nonfinite_mismatches == 0 && relative_l2 <= tolerance &&
         worst_row_l2 <= kRowSlack * tolerance;
}

double relative_l2(std::span<const float> actual, std::span<const float> expected) {
  return compare(actual, expected, static_cast<int64_t>(expected.size())).relative_l2;
}

}  // namespace tandem
