// Rounding weights on the card.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "harness/base/precision.h"

namespace tandem::kernels {

/// Rounds fp32 values in place to the grid of `precision` (fp32 tf32 fp16 bf16), as harness/base/half.h does.
/// Throws UsageError for another precision.
void launch_round(float* values, int64_t count, Precision precision, cudaStream_t stream);

}  // namespace tandem::kernels
