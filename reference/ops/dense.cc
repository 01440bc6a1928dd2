#include "reference/ops/dense.h"

namespace tandem::reference {

double dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

Matrix dense(MatrixView x, const DenseWeight& w, const Numerics& numerics) {
  const MatrixView weight = w.weight;
  const MatrixView bias = w.bias;
  expect_shape(x, x.rows, weight.cols, "dense: input");
  if (!bias.empty()) expect_shape(bias, 1, weight.rows, "dense: bias");

  if (numerics.observe) numerics.observe(x, w);
  Matrix rounded, quantised;
  if (numerics.bf16_inputs) x = rounded = bf16_values(x);
  if (w.input_dtype) x = quantised = quantised_rows(x, *w.input_dtype);

  Matrix y(x.rows, weight.rows);
  // Outputs outside, tokens inside: every weight is read once, whatever the batch.
#pragma omp parallel for if (x.rows * weight.rows * weight.cols > 1 << 21)
  for (int64_t out = 0; out < weight.rows; ++out) {
    const double b = bias.empty() ? 0.0 : bias.data[out];
    for (int64_t t = 0; t < x.rows; ++t) {
      y.row(t)[out] = static_cast<float>(dot(x.row(t), weight.row(out), weight.cols) + b);
    }
  }
  return y;
}

}  // namespace tandem::reference
