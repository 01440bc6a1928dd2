#include "kernels/common/arch.h"

#include <cuda_runtime_api.h>

#include <cstdlib>

#include "harness/base/cuda_check.h"

namespace tandem::kernels {
namespace {

#if defined(TANDEM_BUILT_FOR_SM90A)
constexpr bool kBuiltForSm90a = true;
#else
constexpr bool kBuiltForSm90a = false;
#endif

}  // namespace

Arch current_arch() {
  int device = 0;
  Capability card;
  TANDEM_CUDA_CHECK(cudaGetDevice(&device));
  TANDEM_CUDA_CHECK(cudaDeviceGetAttribute(&card.major, cudaDevAttrComputeCapabilityMajor, device));
  TANDEM_CUDA_CHECK(cudaDeviceGetAttribute(&card.minor, cudaDevAttrComputeCapabilityMinor, device));
  const char* asked = std::getenv("TANDEM_ARCH");
  return choose_arch(card, kBuiltForSm90a, asked == nullptr ? "" : asked);
}

int multiprocessors() {
  int device = 0;
  int value = 0;
  TANDEM_CUDA_CHECK(cudaGetDevice(&device));
  TANDEM_CUDA_CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device));
  return value;
}

}  // namespace tandem::kernels
