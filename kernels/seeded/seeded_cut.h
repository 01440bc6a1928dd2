// Which weights of seeded matrices go by their magnitude, found on the device: what tandem::prune finds on the host.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "harness/weights/pruning/prune.h"
#include "harness/weights/values/source.h"

namespace tandem::kernels {

/// For prune(): chooses the same weights, bit for bit. Waits for `stream`, which must outlive it. Throws OutOfMemory for its own
/// buffers, a few megabytes.
MatrixPruner seeded_pruner(const WeightsSpec& spec, cudaStream_t stream);

}  // namespace tandem::kernels
