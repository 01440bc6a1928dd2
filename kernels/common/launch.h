// Launching with or without programmatic dependent launch, checked.
#pragma once

#include <cuda_runtime.h>

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
