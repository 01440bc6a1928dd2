// A norm by statistics, SkinnyParams::stats_out and what takes it: the arithmetic that the wide kernel shares with tests on the CPU.
//
// The product that writes rows has kStatsColumns neighbours of a row in 16 neighbouring lanes, four each: their statistics meet in
// four exchanges between pairs of lanes. Of an RMS norm the sum of every part counts as 0, so that its mean stays 0, and whoever
// takes the statistics need not know which norm it is.
#pragma once

#include <cstdint>

#include "harness/base/host_device.h"
#include "kernels/skinny/skinny_shape.h"
#include "kernels/skinny/wide/wide_map.h"

namespace tandem::kernels {

inline constexpr int kStatsLanes = kStatsColumns / 4;

/// Of some columns of a row: their sum, and the squares of their differences from their mean, summed.
struct ColumnStats {
  float sum;
  float squares;
};
/// `centred`: for a layer norm.
TANDEM_HD inline ColumnStats quad_stats(float a, float b, float c, float d, bool centred) {
  const float sum = centred ? (a + b) + (c + d) : 0.0f;
  const float mean = 0.25f * sum;
  a -= mean;
  b -= mean;
  c -= mean;
  d -= mean;
  return {sum, (a * a + b * b) + (c * c + d * d)};
}
/// Of two parts of `count` columns each (Chan, Golub and LeVeque 1983), the same bits whichever comes first.
TANDEM_HD inline ColumnStats merged_stats(const ColumnStats& a, const ColumnStats& b, int count) {
  const float apart = a.sum - b.sum;
  return {a.sum + b.sum, (a.squares + b.squares) + apart * apart * (0.5f / static_cast<float>(count))};
}
/// Pair, in what is written, of the columns around `column` of row b.
TANDEM_HD constexpr int64_t stats_at(int column, int b, int m) {
  return static_cast<int64_t>(column / kStatsColumns) * m + b;
}

/// What a row's pairs add up to, as differences from the mean of the row's first pair, so that a large mean of the row costs no
/// digits of its variance: the first mean's own distance from the row's is part of that variance.
struct RowSums {
  float offset = 0.0f;   // of the means from the first one, summed
  float squares = 0.0f;  // of all columns' differences from the first mean, summed
  TANDEM_HD void take(float difference, float part_squares) {
    offset += difference;
    squares += part_squares + static_cast<float>(kStatsColumns) * difference * difference;
  }
  TANDEM_HD void take(const RowSums& other) {
    offset += other.offset;
    squares += other.squares;
  }
};
struct RowMoments {
  float mean;
  float variance;
};
/// `inverse`: of the number of pairs.
TANDEM_HD inline RowMoments row_moments(const RowSums& sums, float first_mean, float inverse) {
  const float shift = sums.offset * inverse;
  const float mean_square = sums.squares * (inverse / kStatsColumns);
  const float variance = mean_square - shift * shift;
  return {first_mean + shift, variance < 0.0f ? 0.0f : variance};  // a NaN stays
}

/// log2 of the neighbouring threads that share one row's pairs: of all consumers, every row that a block finishes gets as many.
TANDEM_HD constexpr int row_stats_shift(const WidePlan& p) {
  const int shift = 6 + p.groups - p.share_shift;
  return shift < 4 ? shift : 4;
}
static_assert(kWideGroupThreads == 1 << 7 && kWideMaxGroups == 2);

}  // namespace tandem::kernels
