// The largest magnitude of each row: for products that quantise rows whose writer left none.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "harness/base/tensor.h"

namespace tandem::kernels {

struct RowMaxParams {
  DType dtype = DType::kBF16;  ///< x: kF32, kF16 or kBF16
  int64_t rows = 0;
  int64_t cols = 0;
  const void* x = nullptr;  ///< [rows, cols], rows x_stride apart
  int64_t x_stride = 0;     ///< elements; 0: cols
  float* max = nullptr;     ///< [rows]; NaN for a row with a NaN
  bool dependent = false;   ///< programmatic dependent launch
};

/// Any shape. Throws UsageError naming the wrong field.
void launch_row_max(const RowMaxParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
