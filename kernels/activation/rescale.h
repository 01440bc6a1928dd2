// What follows a product of integer codes: scales, bias, activation, gate and residual in one pass.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <optional>

#include "harness/base/tensor.h"
#include "harness/model/config.h"

namespace tandem::kernels {

/// v[r, c] = scale * (x[r, c] * w_scales[c]) * x_scales[r] + bias[c];  plain: y = act(v) + residual;  gated:
/// y = act(v[:, :f]) * v[:, f:] + residual. fp32 inside, one rounding at the end.
struct RescaleParams {
  DType dtype = DType::kBF16;           ///< bias
  DType y_dtype = DType::kBF16;         ///< y: dtype or kF32
  DType residual_dtype = DType::kBF16;  ///< residual: dtype or kF32
  std::optional<Activation> activation = {};
  bool gated = false;  ///< needs an activation
  int64_t m = 0;
  int64_t f = 0;
  float scale = 1.0f;
  const int32_t* x = nullptr;       ///< [m, f]; gated: [m, 2 f], gate then up
  const float* x_scales = nullptr;  ///< [m]
  const float* w_scales = nullptr;  ///< [f]; gated: [2 f]
  const void* bias = nullptr;       ///< [f]; gated: [2 f]; or null
  const void* residual = nullptr;   ///< [m, f], rows residual_stride apart, or null
  int64_t residual_stride = 0;      ///< elements; 0: f
  void* y = nullptr;       ///< [m, f], rows y_stride apart; may be residual's buffer (same type and stride)
  int64_t y_stride = 0;    ///< elements; 0: f
  bool dependent = false;  ///< programmatic dependent launch
};

/// Any f >= 1; 16-byte accesses when f, strides and every pointer allow it. Throws UsageError naming the wrong field.
void launch_rescale(const RescaleParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
