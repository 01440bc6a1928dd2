// Seeded weights as codes and scales on the device: the bits of tandem::materialise.
#pragma once

#include <cuda_runtime_api.h>

#include "harness/weights/layout.h"
#include "harness/weights/values/source.h"

namespace tandem::kernels {

/// May launch_seeded_codes make this tensor? Not where single weights or columns were removed, whose rows' scales are of
/// what is left, nor where columns of groups were put together anew: the host finds them, or refuses.
bool seeded_codes_fit(const TensorSpec& tensor);

struct SeededCodesParams {
  const WeightsSpec* spec = nullptr;
  const TensorSpec* tensor = nullptr;  ///< stored with scales
  void* arena = nullptr;  ///< of the layout: codes and scales go to the tensor's places; padding stays
};
/// Scales are the whole matrix's, whatever part of it is here. Throws UsageError for a tensor that does not fit.
void launch_seeded_codes(const SeededCodesParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
