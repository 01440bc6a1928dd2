// Products of many rows on warpgroup tensor cores, with any activation in their epilogue: what cuBLASLt needs a pass of its own
// after it for.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <optional>

#include "harness/base/tensor.h"
#include "harness/model/config.h"

namespace tandem::kernels {

/// y[m, n] = act(x[m, k] w[n, k]^T + bias[n]) + residual[m, n]; gated: y = act(gate) * up with the halves of w [2 n, k] and of
/// bias [2 n]. Sums in fp32, each in one order, and rounded to dtype, as by a product that a pass follows; the rest in fp32 and
/// rounded once more.
struct TiledGemmParams {
  DType dtype = DType::kBF16;  ///< of all operands: kBF16 or kF16
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  const void* x = nullptr;     ///< [m, k], rows ldx apart
  int64_t ldx = 0;             ///< elements; 0: k
  const void* w = nullptr;     ///< [n, k]; gated: [2 n, k], gate then up
  const void* bias = nullptr;  ///< [n], or null; gated: [2 n]
  const void* residual =
      nullptr;              ///< [m, n], rows ld_residual apart, or null; not when gated. May be y itself
  int64_t ld_residual = 0;  ///< elements; 0: n
  void* y = nullptr;        ///< [m, n], rows ldy apart
  int64_t ldy = 0;          ///< elements; 0: n
  std::optional<Activation> activation = {};
  bool gated = false;      ///< needs an activation
  bool dependent = false;  ///< programmatic dependent launch
  /// Rows of 256 that are done before the next ones: they and all of w stay in L2. Measured by kernels/bench/tiled_search; changes
  /// no bit.
  int band = 4;
};

/// Needs sm_90a. Pointers on 16 bytes, n, k and row strides multiples of 8 (tiled_shape.h). Throws UsageError naming the wrong
/// field.
void launch_tiled_gemm(const TiledGemmParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
