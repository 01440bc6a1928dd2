// Seeded weights on the device: the same bits as tandem::fill_seeded, rounded to the storage type.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "harness/base/tensor.h"
#include "harness/weights/values/seeded.h"
#include "harness/weights/weights.h"

namespace tandem::kernels {

/// A rectangle of one tensor, e.g. what one rank of a tensor-parallel group owns.
struct SeededSliceParams {
  const WeightsSpec* spec = nullptr;
  const WholeTensor* tensor = nullptr;
  int64_t first_row = 0;
  int64_t rows = 0;
  int64_t first_col = 0;
  int64_t cols = 0;
  DType dtype = DType::kBF16;
  void* out = nullptr;  ///< [rows, cols], rows ld apart
  int64_t ld = 0;       ///< elements; 0: cols
};
/// Throws UsageError for a slice outside the tensor or weights that are not seeded.
void launch_seeded_slice(const SeededSliceParams& params, cudaStream_t stream);

struct SeededArenaParams {
  const WeightsSpec* spec = nullptr;
  const WeightLayout* layout = nullptr;
  void* arena = nullptr;  ///< layout->bytes; what no value covers becomes 0
};
/// Does launch_seeded_arena make this layout? Not where values are rounded otherwise than by being stored, where scales are
/// the host's (seeded_codes_fit), or where what pruning leaves is (seeded_sparse_fits).
bool seeded_arena_fits(const WeightLayout& layout);
/// Fills a whole weight arena with the bits that materialise() would, but for rounding to another grid than the storage's;
/// a launch for each run of rows and columns of a tensor. Throws UsageError for a layout that does not fit.
void launch_seeded_arena(const SeededArenaParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
