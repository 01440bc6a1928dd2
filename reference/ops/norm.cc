#include "reference/ops/norm.h"

#include <cmath>

namespace tandem::reference {

Matrix layer_norm(MatrixView x, const NormWeight& w, double eps) {
  const MatrixView gamma = w.gamma;
  const MatrixView beta = w.beta;
  expect_shape(gamma, 1, x.cols, "layer norm: gamma");
  expect_shape(beta, 1, x.cols, "layer norm: beta");

  Matrix y(x.rows, x.cols);
  for (int64_t t = 0; t < x.rows; ++t) {
    const float* in = x.row(t);
    double mean = 0;
    for (int64_t i = 0; i < x.cols; ++i) mean += in[i];
    mean /= static_cast<double>(x.cols);
    double variance = 0;
    for (int64_t i = 0; i < x.cols; ++i) variance += (in[i] - mean) * (in[i] - mean);
    variance /= static_cast<double>(x.cols);

    const double scale = 1 / std::sqrt(variance + eps);
    for (int64_t i = 0; i < x.cols; ++i) {
      y.row(t)[i] = static_cast<float>((in[i] - mean) * scale * gamma.data[i] + beta.data[i]);
    }
  }
  return y;
}

Matrix rms_norm(MatrixView x, const NormWeight& w, double eps) {
  const MatrixView gamma = w.gamma;
  expect_shape(gamma, 1, x.cols, "rms norm: gamma");

  Matrix y(x.rows, x.cols);
  for (int64_t t = 0; t < x.rows; ++t) {
    const float* in = x.row(t);
    double squares = 0;
    for (int64_t i = 0; i < x.cols; ++i) squares += static_cast<double>(in[i]) * in[i];

    const double scale = 1 / std::sqrt(squares / static_cast<double>(x.cols) + eps);
    for (int64_t i = 0; i < x.cols; ++i) y.row(t)[i] = static_cast<float>(in[i] * scale * gamma.data[i]);
  }
  return y;
}

}  // namespace tandem::reference
