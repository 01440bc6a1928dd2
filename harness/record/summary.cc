// Statistics of one worker's samples.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "harness/base/error.h"
#include "harness/record/record.h"

namespace tandem {
namespace {

/// Between order statistics linearly: type 7 of Hyndman & Fan, "Sample Quantiles in Statistical Packages",
/// 1996.
double quantile(const std::vector<float>& sorted, double p) {
  const double at = p * static_cast<double>(sorted.size() - 1);
  const auto lo = static_cast<size_t>(at);
  const size_t hi = std::min(lo + 1, sorted.size() - 1);
  return sorted[lo] + (at - static_cast<double>(lo)) * (static_cast<double>(sorted[hi]) - sorted[lo]);
}

/// Largest k such that fewer than k of n fair coins fall heads with at most 2.5 %: the k-th smallest and k-th
/// largest samples enclose the median with at least 95 % (David & Nagaraja, Order Statistics, 3rd ed.,
/// section 7.1). 0: none do.
int64_t median_rank(int64_t n) {
  double tail = 0;
  for (int64_t k = 0; k <= n; ++k) {
    const double log_pmf =
        std::lgamma(n + 1.0) - std::lgamma(k + 1.0) - std::lgamma(n - k + 1.0) - n * std::log(2.0);
    tail += std::exp(log_pmf);
    if (tail > 0.025) return k;
  }
  return 0;
}

}  // namespace

Summary summarize(std::vector<float> samples_us) {
  if (samples_us.empty()) throw Error("no samples");
  for (size_t i = 0; i < samples_us.size(); ++i) {
    if (!std::isfinite(samples_us[i]) || !(samples_us[i] > 0)) {
      throw Error(fmt::format("sample {} is {} us; a time is more than 0 and finite", i, samples_us[i]));
    }
  }
  std::sort(samples_us.begin(), samples_us.end());
  const auto n = static_cast<int64_t>(samples_us.size());
  Summary s;
  s.n = n;
  s.median_us = quantile(samples_us, 0.5);
  s.q1_us = quantile(samples_us, 0.25);
  s.q3_us = quantile(samples_us, 0.75);
  s.min_us = samples_us.front();
  if (n >= 20) s.p95_us = quantile(samples_us, 0.95);
  if (n >= 100) s.p99_us = quantile(samples_us, 0.99);
  if (const int64_t rank = median_rank(n); rank > 0) {
    s.ci95_lo_us = samples_us[rank - 1];
    s.ci95_hi_us = samples_us[n - rank];
  }
  return s;
}

}  // namespace tandem
