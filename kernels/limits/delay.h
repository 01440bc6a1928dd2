// A kernel that takes a given time, for tests of clocks, queues and traces.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace tandem::kernels {

struct DelayParams {
  int64_t ns = 0;  ///< by %globaltimer, whose step is up to about a microsecond
  int blocks = 1;
  bool dependent = false;  ///< programmatic dependent launch
};
/// Throws UsageError for a negative time or more than 10 s.
void launch_delay(const DelayParams& params, cudaStream_t stream);

struct EmptyParams {
  int blocks = 1;
  bool dependent = false;  ///< programmatic dependent launch
};
void launch_empty(const EmptyParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
