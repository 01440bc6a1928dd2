#include "kernels/common/arch.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

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

std::string why_unusable(int device) {
  const auto said = [](cudaError_t status) {
    cudaGetLastError();
    return std::string(cudaGetErrorString(status));
  };
  int count = 0;
  if (const cudaError_t failed = cudaGetDeviceCount(&count); failed != cudaSuccess) return said(failed);
  if (count == 0) return "no CUDA device";
  if (device < 0 || device >= count) return fmt::format("device {} is not one of the {} here", device, count);
  cudaDeviceProp card{};
  if (const cudaError_t failed = cudaGetDeviceProperties(&card, device); failed != cudaSuccess)
    return said(failed);
  const std::string is = fmt::format("{} has compute capability {}.{}", card.name, card.major, card.minor);
  if (card.major < 8) return is + "; 8.0 or later is needed";
  if (built_for(TANDEM_CUDA_ARCHITECTURES, {card.major, card.minor})) return {};
  return fmt::format(
      "{}, and this build holds code for {} alone; -DCMAKE_CUDA_ARCHITECTURES={}{}{} makes one for it", is,
      TANDEM_CUDA_ARCHITECTURES, card.major, card.minor, card.major == 9 && card.minor == 0 ? "a" : "");
}

int multiprocessors() {
  int device = 0;
  int value = 0;
  TANDEM_CUDA_CHECK(cudaGetDevice(&device));
  TANDEM_CUDA_CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device));
  return value;
}

}  // namespace tandem::kernels
