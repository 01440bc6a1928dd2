// The slow-down of a build that was made to test a gate (harness/engine/planted.h). Any other build launches nothing here.
#pragma once

#include <cuda_runtime_api.h>

namespace tandem::kernels {

/// Loads the kernels below, which a capture may not: call it before a capture begins.
void plant_prepare(cudaStream_t stream);
/// Notes when a piece of work begins.
void plant_begin(cudaStream_t stream);
/// Ends the piece with a kernel that waits until it has taken its share longer.
void plant_end(cudaStream_t stream);

}  // namespace tandem::kernels
