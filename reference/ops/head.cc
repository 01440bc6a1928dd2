#include "reference/ops/head.h"

#include <cmath>

#include "reference/ops/dense.h"

namespace tandem::reference {

Matrix head(MatrixView x, const DenseWeight& w, double scale, const Numerics& numerics) {
  Matrix scaled(x.rows, x.cols);
  for (int64_t i = 0; i < x.rows * x.cols; ++i) scaled.values[i] = static_cast<float>(scale * x.data[i]);
  return dense(scaled, w, numerics);
}

std::vector<int32_t> arg_max(MatrixView logits) {
  std::vector<int32_t> best(logits.rows, 0);
  for (int64_t t = 0; t < logits.rows; ++t) {
    const float* row = logits.row(t);
    for (int64_t i = 0; i < logits.cols; ++i) {
      if (std::isnan(row[i])) {
        best[t] = static_cast<int32_t>(i);
        break;
      }
      if (row[i] > row[best[t]]) best[t] = static_cast<int32_t>(i);
    }
  }
  return best;
}

}  // namespace tandem::reference
