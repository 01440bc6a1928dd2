// Layer norm and rms norm, with the residual addition in front of it in the same kernel.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <optional>

#include "harness/base/tensor.h"
#include "harness/model/config.h"

namespace tandem::kernels {

/// s = x + bias + residual (fp32); sum = s rounded to stream_dtype; y = norm(s) * gamma + beta. The norm sees
/// the unrounded s; mean and variance in fp32, in two passes (E[x^2] - E[x]^2 cancels). Pre-norm sublayers
/// pass residual and sum (the same buffer may serve as both); post-norm sublayers pass residual only.
struct NormParams {
  DType dtype = DType::kBF16;         ///< gamma, beta, bias, y
  DType x_dtype = DType::kBF16;       ///< x: dtype or kF32
  DType stream_dtype = DType::kBF16;  ///< residual and sum: dtype or kF32
  Norm norm = Norm::kLayer;
  int64_t rows = 0;
  int d = 0;
  float eps = 1e-5f;
  const void* x = nullptr;         ///< [rows, d]
  const void* bias = nullptr;      ///< [d], or null
  const void* residual = nullptr;  ///< [rows, d], or null
  void* sum = nullptr;             ///< [rows, d], or null; may be residual's or x's buffer (same type)
  const void* gamma = nullptr;     ///< [d]
  const void* beta = nullptr;      ///< [d], or null
  void* y =
      nullptr;  ///< [rows, d], or null with codes; may be x's or residual's buffer (same type), never sum's
  /// [rows, d] or null: y, rounded to dtype, as codes with one scale a row, as tandem::quantise_row makes them.
  void* codes = nullptr;
  DType code_dtype = DType::kF8;  ///< kF8 or kI8
  float* scales = nullptr;        ///< [rows]: of the codes; null without
  bool dependent = false;         ///< programmatic dependent launch
};

/// Throws UsageError naming the wrong field.
void check_norm(const NormParams& params);
/// Do d and every pointer allow 16-byte accesses?
bool norm_vectors_fit(const NormParams& params);

/// Any d >= 1; 16-byte accesses when d and every pointer allow it. Throws UsageError naming the wrong field.
void launch_norm(const NormParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
