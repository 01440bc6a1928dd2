#include "reference/ops/dense.h"

#include <algorithm>

// One function for several kinds of CPU, picked when the program is loaded. Sanitizers start too late for that.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define TANDEM_CPU_CLONES __attribute__((target_clones("default", "arch=haswell", "arch=skylake-avx512")))
#else
#define TANDEM_CPU_CLONES
#endif

namespace tandem::reference {
namespace {

/// Neighbouring rows of x that a weight row is multiplied with at a time, and weight rows that stay in a core's cache
/// meanwhile.
constexpr int kTokens = 4;
constexpr int kWeightRows = 16;

/// sums[t] = x[t] . w. One function for any number of rows, so that a row has the same bits whatever its neighbours are.
TANDEM_CPU_CLONES void dots(const float* const (&x)[kTokens], const float* w, int64_t n,
                            double (&sums)[kTokens]) {
  const float *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
  double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
  for (int64_t i = 0; i < n; ++i) {
    const double weight = w[i];
    s0 += weight * x0[i];
    s1 += weight * x1[i];
    s2 += weight * x2[i];
    s3 += weight * x3[i];
  }
  sums[0] = s0;
  sums[1] = s1;
  sums[2] = s2;
  sums[3] = s3;
}

}  // namespace

TANDEM_CPU_CLONES double dot(const float* a, const float* b, int64_t n) {
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
  // A few weight rows stay in cache while all of x passes by.
#pragma omp parallel for if (x.rows * weight.rows * weight.cols > 1 << 21)
  for (int64_t first = 0; first < weight.rows; first += kWeightRows) {
    const int64_t end = std::min(first + kWeightRows, weight.rows);
    for (int64_t t = 0; t < x.rows; t += kTokens) {
      const float* rows[kTokens];
      for (int64_t i = 0; i < kTokens; ++i) rows[i] = x.row(std::min(t + i, x.rows - 1));
      for (int64_t out = first; out < end; ++out) {
        double sums[kTokens];
        dots(rows, weight.row(out), weight.cols, sums);
        const double b = bias.empty() ? 0.0 : bias.data[out];
        for (int64_t i = 0; i < std::min<int64_t>(kTokens, x.rows - t); ++i)
          y.row(t + i)[out] = static_cast<float>(sums[i] + b);
      }
    }
  }
  return y;
}

}  // namespace tandem::reference
