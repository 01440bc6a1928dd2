#include <cmath>

#include <fmt/format.h>

#include "harness/base/error.h"
#include "kernels/embedding/embedding.h"

namespace tandem::kernels {

std::vector<float> sinusoid_table(const SinusoidShape& shape) {
  const int least = shape.spans_end ? 4 : 2;
  if (shape.d < least || shape.d % 2 != 0) {
    throw UsageError(fmt::format("sinusoid table: d is {}, must be even and at least {}", shape.d, least));
  }
  if (shape.rows < 0) throw UsageError("sinusoid table: rows must not be negative");
  const int half = shape.d / 2;
  const double steps = shape.spans_end ? half - 1 : half;
  std::vector<float> table(static_cast<size_t>(shape.rows) * static_cast<size_t>(shape.d));
  for (int i = 0; i < half; ++i) {
    const double frequency = std::pow(10000.0, -i / steps);
    const int sine = shape.halves ? i : 2 * i;
    const int cosine = shape.halves ? half + i : 2 * i + 1;
    for (int row = 0; row < shape.rows; ++row) {
      float* out = table.data() + static_cast<size_t>(row) * static_cast<size_t>(shape.d);
      out[sine] = static_cast<float>(std::sin(row * frequency));
      out[cosine] = static_cast<float>(std::cos(row * frequency));
    }
  }
  return table;
}

}  // namespace tandem::kernels
