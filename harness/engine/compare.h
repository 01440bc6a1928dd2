// Comparing what an engine computed with what it should have: the judge of every correctness check.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace tandem {

struct Comparison {
  bool same_size = true;
  int64_t elements = 0;
  int64_t cols = 0;  ///< row length, for worst_row and where

  /// |actual - expected| / |expected|. Infinite when the sizes differ, when only |expected| is 0, when any
  /// expected value is NaN or infinite, and when any actual value is.
  double relative_l2 = 0;
  double worst_row_l2 = 0;  ///< the same of the worst row: one wrong sequence is not diluted by the others
  int64_t worst_row = -1;
  int64_t worst_index = -1;  ///< element of the largest absolute difference; -1: none differs
  float worst_expected = 0;
  float worst_actual = 0;

  /// Elements that are NaN or infinite in one but not the same in the other, and the first of them.
  int64_t nonfinite_mismatches = 0;
  int64_t first_nonfinite = -1;
  /// NaN or infinite elements of the expected values: a reference that has any proves nothing.
  int64_t nonfinite_expected = 0;

  /// The worst element, "[2, 17]: expected 0.25, got 0.5; row 2 is off by 8.0e-03", or what else is wrong;
  /// empty when equal.
  std::string where;

  /// Sizes equal, no NaN or infinity on either side, relative_l2 <= tolerance, and no row worse than
  /// kRowSlack times it.
  bool within(double tolerance) const;
};

/// A row may be this much worse than all rows together: rounding errors spread, a wrong row stands out.
inline constexpr double kRowSlack = 4;

/// Both row-major with rows of `cols` elements. Sums in double. NaN and infinity are matched by position.
/// Never throws.
Comparison compare(std::span<const float> actual, std::span<const float> expected, int64_t cols);

/// compare(...).relative_l2.
double relative_l2(std::span<const float> actual, std::span<const float> expected);

}  // namespace tandem
