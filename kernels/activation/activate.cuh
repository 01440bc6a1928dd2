// The activation functions, on values in registers.
#pragma once

#include "harness/model/config.h"
#include "kernels/common/mma_ptx.cuh"

namespace tandem::kernels {

__device__ inline float sigmoid(float x) {
  return __fdividef(1.0f, 1.0f + expf(-x));
}

/// erf GELU for 16-bit results: about 14 instructions a value where erff takes 30, so that memory binds and not instructions. The
/// error of erf is at most 1.5e-7 (Abramowitz and Stegun 7.1.26); the form keeps the small values of negative x accurate. Step by
/// step for all values: value by value the compiler leaves each one's chain of waits as it is.
template <int V>
__device__ inline void gelu_16bit(float (&x)[V]) {
  float t[V], gauss[V], half_erfc[V];
  const auto each = [](auto step) {
#pragma unroll
    for (int j = 0; j < V; ++j) step(j);
  };
  each([&](int j) {
    const float z = fabsf(x[j]) * 0.70710678f;
    t[j] = fmaf(0.3275911f, z, 1.0f);
    gauss[j] = z * z * -1.44269504f;
  });
  each([&](int j) { asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(t[j])); });
  each([&](int j) { gauss[j] = fast_exp2(gauss[j]); });  // exp(-z^2)
  each([&](int j) { half_erfc[j] = fmaf(t[j], 0.5f * 1.061405429f, 0.5f * -1.453152027f); });
  each([&](int j) { half_erfc[j] = fmaf(t[j], half_erfc[j], 0.5f * 1.421413741f); });
  each([&](int j) { half_erfc[j] = fmaf(t[j], half_erfc[j], 0.5f * -0.284496736f); });
  each([&](int j) { half_erfc[j] = fmaf(t[j], half_erfc[j], 0.5f * 0.254829592f) * t[j] * gauss[j]; });
  each([&](int j) { x[j] *= x[j] > 0.0f ? 1.0f - half_erfc[j] : half_erfc[j]; });
}

/// The switch is outside the loop: `activation` is the same for the whole grid.
template <typename T, int V>
__device__ inline void activate(Activation activation, float (&v)[V]) {
  const auto each = [&](auto f) {
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = f(v[j]);
  };
  switch (activation) {
    case Activation::kRelu:
      // Not fmaxf, which would turn a NaN into 0 and hide it.
      return each([](float x) { return x < 0.0f ? 0.0f : x; });
    case Activation::kGelu:
      if constexpr (sizeof(T) == 2) return gelu_16bit(v);
      return each([](float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); });
    case Activation::kGeluTanh:
      // 0.5 x (1 + tanh(u)) = x sigmoid(2 u), without the cancellation for negative u.
      return each([](float x) { return x * sigmoid(1.5957691f * (x + 0.044715f * x * x * x)); });
    case Activation::kSilu:
      return each([](float x) { return x * sigmoid(x); });
    case Activation::kTanh:
      return each([](float x) { return tanhf(x); });
    case Activation::kSigmoid:
      return each([](float x) { return sigmoid(x); });
  }
}

}  // namespace tandem::kernels
