// Bias and activation, plain or gated, for what a product's epilogue cannot do.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "harness/base/tensor.h"
#include "harness/model/config.h"

namespace tandem::kernels {

/// plain: y[m, f] = act(x[m, f] + bias[f]);  gated: y[m, f] = act(x[m, :f] + bias[:f]) * (x[m, f:] +
/// bias[f:]). fp32 inside, one rounding at the end.
struct ActivationParams {
  DType dtype = DType::kBF16;
  Activation activation = Activation::kRelu;
  bool gated = false;
  int64_t m = 0;
  int64_t f = 0;
  const void* x = nullptr;     ///< [m, f]; gated: [m, 2 f], gate then up
  const void* bias = nullptr;  ///< [f]; gated: [2 f]; or null
  void* y = nullptr;           ///< [m, f]; may be x when plain
  bool dependent = false;      ///< programmatic dependent launch
};

/// Any f >= 1; 16-byte accesses when f and every pointer allow it. Throws UsageError naming the wrong field.
void launch_activation(const ActivationParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
