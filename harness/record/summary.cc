// Statistics of one worker's samples.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "harness/base/error.h"
#include "harness/base/stats.h"
#include "harness/record/record.h"

namespace tandem {
Summary summarize(std::vector<float> samples_us) {
  if (samples_us.empty()) throw Error("no samples");
  for (size_t i = 0; i < samples_us.size(); ++i) {
    if (!std::isfinite(samples_us[i]) || !(samples_us[i] > 0)) {
      throw Error(fmt::format("sample {} is {} us; a time is more than 0 and finite", i, samples_us[i]));
    }
  }
  const auto interval = blocked_median_interval(std::span<const float>(samples_us));
  std::sort(samples_us.begin(), samples_us.end());
  const std::span<const float> sorted(samples_us);
  const auto n = static_cast<int64_t>(samples_us.size());
  Summary s;
  s.n = n;
  s.median_us = quantile(sorted, 0.5);
  s.q1_us = quantile(sorted, 0.25);
  s.q3_us = quantile(sorted, 0.75);
  s.min_us = samples_us.front();
  if (n >= 20) s.p95_us = quantile(sorted, 0.95);
  if (n >= 100) s.p99_us = quantile(sorted, 0.99);
  if (interval) {
    s.ci95_lo_us = interval->lo;
    s.ci95_hi_us = interval->hi;
  }
  return s;
}

}  // namespace tandem
