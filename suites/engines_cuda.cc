#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <string>

#include "harness/base/error.h"
#include "harness/run/ranks/team.h"
#include "kernels/engine/cuda_engine.h"
#include "reference/engine/reference_engine.h"
#include "suites/engines.h"

namespace tandem {
namespace {

std::unique_ptr<Engine> make_engine(const std::string& name, const EngineOptions& options) {
  if (name == "reference") return std::make_unique<reference::ReferenceEngine>(options.seat);
  if (name != "cuda") {
    throw UsageError(fmt::format("engine: '{}' is not in this binary; it has: cuda reference", name));
  }
  std::string reason;
  if (!kernels::cuda_usable(options.device, &reason))
    throw DeviceError(fmt::format("engine: 'cuda' is not usable: {}", reason));
  return std::make_unique<kernels::CudaEngine>(kernels::CudaEngineOptions{
      .device = options.device,
      .choices_path = options.run_dir.empty() ? "" : options.run_dir + "/gemm-choices.json",
      .choices_read_only = !options.may_search,
      .race_steps = true,
      .build = own_build,
      .run_dir = options.run_dir,
      .level1_bytes = options.level1_bytes,
      .tensor = options.seat != nullptr && options.seat->group.tp > 1 ? options.seat->tensor : nullptr});
}

std::optional<double> cache_bytes(int device) {
  if (device < 0) return host_cache_bytes();
  int bytes = 0;
  if (cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, device) != cudaSuccess || bytes <= 0) {
    cudaGetLastError();
    return std::nullopt;
  }
  return bytes;
}

/// "GPU-01234567-89ab-cdef-0123-456789abcdef": the UUID as NVML spells it.
std::optional<std::string> card_uuid(int device) {
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, device) != cudaSuccess) {
    cudaGetLastError();
    return std::nullopt;
  }
  std::string uuid = "GPU";
  for (size_t i = 0; i < sizeof(properties.uuid.bytes); ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) uuid += '-';
    uuid += fmt::format("{:02x}", static_cast<unsigned char>(properties.uuid.bytes[i]));
  }
  return uuid;
}

}  // namespace

EngineRegistry engine_registry() {
  return {.make = make_engine,
          .device_usable = kernels::cuda_usable,
          .card_uuid = card_uuid,
          .l2_bytes = cache_bytes};
}

}  // namespace tandem
