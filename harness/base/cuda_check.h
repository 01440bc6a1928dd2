// Checks for CUDA runtime calls and kernel launches. Only files that build with CUDA include this.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdio>
#include <string>

#include "harness/base/error.h"

namespace tandem {

/// Throws CudaError (OutOfMemory for an allocation failure is the caller's business) with file, line and the call.
inline void check_cuda(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clear a non-sticky error so that the next check does not report this one again
  throw CudaError(std::string(file) + ":" + std::to_string(line) + ": " + call + ": " +
                      cudaGetErrorName(status) + ": " + cudaGetErrorString(status),
                  static_cast<int>(status));
}

/// For destructors: reports on stderr, never throws.
inline void warn_cuda(cudaError_t status, const char* call, const char* file, int line) noexcept {
  if (status == cudaSuccess || status == cudaErrorCudartUnloading) return;
  std::fprintf(stderr, "tandem: %s:%d: %s: %s\n", file, line, call, cudaGetErrorString(status));
}

}  // namespace tandem

#define TANDEM_CUDA_CHECK(call) ::tandem::check_cuda((call), #call, __FILE__, __LINE__)
#define TANDEM_CUDA_WARN(call) ::tandem::warn_cuda((call), #call, __FILE__, __LINE__)
/// After every kernel launch, in Release too.
#define TANDEM_LAUNCH_CHECK(name) \
  ::tandem::check_cuda(cudaGetLastError(), "launch of " name, __FILE__, __LINE__)
