// Seeded weights on the device: the same bits as tandem::fill_seeded, rounded to the storage type.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "harness/base/tensor.h"
#include "harness/weights/seeded.h"
#include "harness/weights/weights.h"

namespace tandem::kernels {

/// A rectangle of one tensor, e.g. what one rank of a tensor-parallel group owns, written densely.
struct SeededSliceParams {
  const WeightsSpec* spec = nullptr;
  const TensorSpec* tensor = nullptr;
  int64_t first_row = 0;
  int64_t rows = 0;
  int64_t first_col = 0;
  int64_t cols = 0;
  DType dtype = DType::kBF16;
  void* out = nullptr;  ///< [rows, cols]
};
/// Throws UsageError for a slice outside the tensor or weights that are not seeded.
void launch_seeded_slice(const SeededSliceParams& params, cudaStream_t stream);

struct SeededArenaParams {
  const WeightsSpec* spec = nullptr;
  std::span<const TensorSpec> tensors;
  int64_t elements = 0;  ///< of the arena; what no tensor covers becomes 0
  DType dtype = DType::kBF16;
  void* arena = nullptr;  ///< [elements]
};
/// Fills a whole weight arena, one launch a tensor.
void launch_seeded_arena(const SeededArenaParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
