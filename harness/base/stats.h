// Order statistics: quantiles, the median and its 95 % interval. The only definitions outside reports/.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace tandem {

/// Quantile p in [0, 1] of a sorted sample that is not empty. Linear between order statistics: type 7 of Hyndman &
/// Fan, "Sample Quantiles in Statistical Packages", 1996.
template <typename T>
double quantile(std::span<const T> sorted, double p) {
  const double at = p * static_cast<double>(sorted.size() - 1);
  const auto lo = static_cast<size_t>(at);
  const size_t hi = std::min(lo + 1, sorted.size() - 1);
  const auto low = static_cast<double>(sorted[lo]);
  return low + (at - static_cast<double>(lo)) * (static_cast<double>(sorted[hi]) - low);
}

/// Median of a sample that is not empty, in any order: the mean of the two middle values when their number is even.
template <typename T>
double median(std::vector<T> sample) {
  std::sort(sample.begin(), sample.end());
  return quantile(std::span<const T>(sample), 0.5);
}

/// Standard error of the median of a sample that is not empty, by its median absolute deviation, which one disturbed value does
/// not move: 1.4826 takes that to a standard deviation of normal values, 1.2533 the error of a mean to that of a median.
inline double median_error(const std::vector<double>& values) {
  const double middle = median(values);
  std::vector<double> far;
  for (const double v : values) far.push_back(std::abs(v - middle));
  return 1.4826 * 1.2533 * median(std::move(far)) / std::sqrt(static_cast<double>(values.size()));
}

/// Do the last `n` of these lie within `tolerance` of the largest of them?
inline bool last_agree(const std::vector<double>& values, size_t n, double tolerance) {
  if (values.size() < n) return false;
  const auto [lo, hi] = std::minmax_element(values.end() - static_cast<ptrdiff_t>(n), values.end());
  return *hi - *lo <= tolerance * *hi;
}

/// The rank k such that the k-th smallest and the k-th largest of n samples enclose the median with at least 95 %,
/// as narrow as that allows. That is the largest k such that fewer than k of n fair coins fall heads with at most
/// 2.5 % (David & Nagaraja, Order Statistics, 3rd ed., section 7.1). 0 under 6 samples: none encloses it.
inline int64_t median_rank(int64_t n) {
  double tail = 0;
  for (int64_t k = 0; k <= n; ++k) {
    const auto heads = static_cast<double>(k), coins = static_cast<double>(n);
    const double log_pmf = std::lgamma(coins + 1.0) - std::lgamma(heads + 1.0) -
                           std::lgamma(coins - heads + 1.0) - coins * std::log(2.0);
    tail += std::exp(log_pmf);
    if (tail > 0.025) return k;
  }
  return 0;
}

struct Interval {
  double lo = 0, hi = 0;
};

/// The 95 % interval of the median of a sorted sample; none under 6 samples.
template <typename T>
std::optional<Interval> median_interval(std::span<const T> sorted) {
  const auto n = static_cast<int64_t>(sorted.size());
  const int64_t rank = median_rank(n);
  if (rank == 0) return std::nullopt;
  return Interval{static_cast<double>(sorted[static_cast<size_t>(rank - 1)]),
                  static_cast<double>(sorted[static_cast<size_t>(n - rank)])};
}

/// Blocks of an interval within one process, and the fewest samples of a block.
inline constexpr size_t kIntervalBlocks = 10, kBlockSamples = 5;

/// The 95 % interval of the median of samples in the order in which they were taken. Neighbouring samples share clock and
/// temperature, so that they are no independent draws: the interval is that of the medians of ten blocks of neighbours, all of
/// one length, widened to hold the median of all. None with blocks under `block_samples`: of so few it would not hold. It
/// covers what is faster than a block, and nothing that differs from process to process. (Batch means: Law, Simulation Modeling and Analysis, 5th ed., section 9.5.3.)
template <typename T>
std::optional<Interval> blocked_median_interval(std::span<const T> in_order,
                                                size_t block_samples = kBlockSamples) {
  const size_t n = in_order.size();
  if (n < kIntervalBlocks * block_samples) return std::nullopt;
  std::vector<double> medians;
  for (size_t i = 0; i < kIntervalBlocks; ++i) {
    const size_t from = i * n / kIntervalBlocks, to = (i + 1) * n / kIntervalBlocks;
    medians.push_back(median(std::vector<T>(in_order.begin() + from, in_order.begin() + to)));
  }
  std::sort(medians.begin(), medians.end());
  const Interval of_blocks = *median_interval(std::span<const double>(medians));
  const double middle = median(std::vector<T>(in_order.begin(), in_order.end()));
  return Interval{std::min(of_blocks.lo, middle), std::max(of_blocks.hi, middle)};
}

}  // namespace tandem
