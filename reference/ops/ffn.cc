#include "reference/ops/ffn.h"

#include <cmath>
#include <numbers>

#include "reference/ops/dense.h"
#include "reference/ops/ranks.h"

namespace tandem::reference {

double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::kRelu:
      return x < 0 ? 0 : x;  // in this order a NaN stays a NaN
    case Activation::kGelu:
      return 0.5 * x * (1 + std::erf(x / std::numbers::sqrt2));
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kTanh:
      return std::tanh(x);
    case Activation::kSigmoid:
      return 1 / (1 + std::exp(-x));
  }
  return 0;
}

Matrix feed_forward(MatrixView x, const FfnWeight& w, Activation activation, const Numerics& numerics) {
  const bool gated = !w.gate.weight.empty();
  const Matrix up = dense(x, w.up, numerics);
  const Matrix gate = gated ? dense(x, w.gate, numerics) : Matrix();

  Matrix hidden(up.rows, up.cols);
#pragma omp parallel for if (up.rows * up.cols > 1 << 16)
  for (int64_t i = 0; i < up.rows * up.cols; ++i) {
    const double u = up.values[i];
    hidden.values[i] =
        static_cast<float>(gated ? activate(activation, gate.values[i]) * u : activate(activation, u));
  }
  return last_product(hidden, w.down, numerics);
}

}  // namespace tandem::reference
