#include "harness/weights/calibration/stats.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "harness/base/error.h"

namespace tandem {

void InputStats::add(std::span<const float> values, int64_t count) {
  if (count < 1) return;
  const size_t n = values.size() / static_cast<size_t>(count);
  if (rows == 0) {
    largest.assign(n, 0);
    magnitudes.assign(n, 0);
    squares.assign(n, 0);
  }
  if (n != largest.size() || values.size() != n * static_cast<size_t>(count))
    throw Error(fmt::format("calibration: {} values of {} rows of {}", values.size(), count, largest.size()));
  for (int64_t r = 0; r < count; ++r, ++rows) {
    const std::span<const float> row = values.subspan(static_cast<size_t>(r) * n, n);
    for (size_t i = 0; i < n; ++i) {
      const double x = std::abs(row[i]);
      largest[i] = std::max(largest[i], std::abs(row[i]));
      magnitudes[i] += x;
      squares[i] += x * x;
    }
    if (rows % kEvery == 0) sample.insert(sample.end(), row.begin(), row.end());
  }
}

}  // namespace tandem
