// Launching with or without programmatic dependent launch, checked.
#pragma once

#include <cuda_runtime.h>

#include <mutex>
#include <set>
#include <utility>

#include "harness/base/cuda_check.h"

namespace tandem::kernels {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  /// Start before the previous kernel of the stream has ended; the kernel must call pdl_wait() before it touches
  /// anything that kernel writes. Ignored by kernels built for cards before sm_90.
  bool dependent = false;
  int cluster = 1;  ///< thread blocks of a cluster along x (sm_90)
};

/// Asks for the largest share of shared memory, once for each kernel and device. One setting for all kernels of a chain: a
/// multiprocessor must drain before its split between L1 and shared memory changes, and the next kernel's early start would
/// wait for that.
inline void prefer_shared_memory(const void* kernel) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> asked;
  int device = 0;
  TANDEM_CUDA_CHECK(cudaGetDevice(&device));
  const std::lock_guard lock(mutex);
  if (!asked.insert({kernel, device}).second) return;
  TANDEM_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                         cudaSharedmemCarveoutMaxShared));
}

template <typename... Params, typename... Args>
void launch(void (*kernel)(Params...), const LaunchShape& shape, cudaStream_t stream, Args&&... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute attributes[2];
  int count = 0;
  if (shape.dependent) {
    prefer_shared_memory(reinterpret_cast<const void*>(kernel));
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
  }
  config.attrs = attributes;
  config.numAttrs = static_cast<unsigned>(count);
  TANDEM_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...));
}

}  // namespace tandem::kernels
