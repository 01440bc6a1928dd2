// Matrices that are stored without some of their elements, made dense on the card.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "harness/base/tensor.h"

namespace tandem::kernels {

/// A matrix as DenseWeight has it -> [rows, cols], zeros where nothing is stored. Elements are copied as they are, codes too.
struct UnpackParams {
  DType dtype = DType::kBF16;  ///< of the elements: kF32, kF16, kBF16, kF8 or kI8
  int64_t rows = 0;
  int64_t cols = 0;              ///< of the dense matrix; with metadata a multiple of 4
  const void* values = nullptr;  ///< with metadata [rows, cols / 2]; with a bitmap what rows start from
  /// Two bits a stored value, each row from a whole byte on; or null.
  const uint8_t* metadata = nullptr;
  /// A bit an element, each row from a whole word on; or null.
  const uint32_t* bitmap = nullptr;
  const uint32_t* row_starts = nullptr;  ///< [rows + 1] with a bitmap, in units of 16 bytes
  void* y = nullptr;                     ///< [rows, cols]
  bool dependent = false;                ///< programmatic dependent launch
};
/// Throws UsageError naming the wrong field.
void launch_unpack(const UnpackParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
