// Codes and scales made of rows on the card, and rows of weights made of their codes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "harness/base/tensor.h"

namespace tandem::kernels {

/// Each `group` neighbours of a row become codes with one scale, with the bits of tandem::quantise_row
/// (harness/weights/values/quantise.h). Inputs of products: group = cols. Keys and values: group = head_dim.
struct QuantiseRowsParams {
  DType dtype = DType::kBF16;     ///< x: kF32, kF16 or kBF16
  DType code_dtype = DType::kF8;  ///< kF8 or kI8
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group = 0;        ///< divides cols
  const void* x = nullptr;  ///< [rows, cols], rows x_stride apart
  int64_t x_stride = 0;     ///< elements; 0: cols
  void* codes = nullptr;    ///< [rows, cols], rows code_stride apart
  int64_t code_stride = 0;  ///< elements; 0: cols
  /// [rows, cols / group]: the scale of group g of row r lies at r * scale_stride + g * scale_group_stride. What reads a
  /// head's scales of many tokens wants [groups, rows]: scale_stride 1, scale_group_stride rows.
  float* scales = nullptr;
  int64_t scale_stride = 0;        ///< floats; 0: cols / group
  int64_t scale_group_stride = 0;  ///< floats; 0: 1
  bool dependent = false;          ///< programmatic dependent launch
};
/// Any shape; 16-byte reads when group, strides and pointers allow it. Throws UsageError naming the wrong field.
void launch_quantise_rows(const QuantiseRowsParams& params, cudaStream_t stream);

/// y = code * scale in fp32, rounded once to bf16: a matrix as DenseWeight has it, for a product that takes bf16.
struct DequantiseParams {
  DType code_dtype = DType::kI8;  ///< kF8, kI8 or kI4 (two a byte, rows from whole bytes on)
  int64_t rows = 0;
  int64_t cols = 0;
  const void* codes = nullptr;   ///< [rows, cols]
  const void* scales = nullptr;  ///< f32 [rows]; with kI4 bf16 [rows, groups of 128 of a row]
  void* y = nullptr;             ///< bf16 [rows, cols]
  bool dependent = false;        ///< programmatic dependent launch
};
/// Any shape; 16-byte accesses when cols and pointers allow it. Throws UsageError naming the wrong field.
void launch_dequantise(const DequantiseParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
