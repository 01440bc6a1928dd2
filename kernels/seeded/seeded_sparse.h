// Seeded weights without those that pruning removes, on the device: the bits of tandem::materialise.
#pragma once

#include <cuda_runtime_api.h>

#include "harness/weights/layout.h"
#include "harness/weights/values/source.h"

namespace tandem::kernels {

/// Is this tensor pruned, so that launch_seeded_sparse must make it?
bool seeded_sparse(const WeightForm& form, const TensorSpec& tensor);
/// May it? Of codes those of 8 bits with a scale a row, where the row is here whole: 2:4 ones and such as have zeros stored.
bool seeded_sparse_fits(const WeightForm& form, const TensorSpec& tensor);

struct SeededSparseParams {
  const WeightsSpec* spec = nullptr;
  const WeightLayout* layout = nullptr;
  void* arena = nullptr;  ///< layout->bytes, zeros where pruned tensors and their padding lie
};
/// Makes all pruned tensors of a layout. Throws UsageError for one that does not fit.
void launch_seeded_sparse(const SeededSparseParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
