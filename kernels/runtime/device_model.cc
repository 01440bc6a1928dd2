#include "kernels/runtime/device_model.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <cstddef>
#include <iostream>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"
#include "harness/base/sha256.h"
#include "harness/memory/gpu_resource.h"
#include "harness/memory/level1_cache.h"
#include "harness/weights/checkpoint.h"
#include "kernels/seeded/round.h"
#include "kernels/seeded/seeded_fill.h"

namespace tandem::kernels {
namespace {

/// The arena's bytes from the folder: through the Level-1 cache, which holds them as they are uploaded, or, where the
/// memory axis stops short of it or it has no room, from memory of this process alone.
void upload_checkpoint(Device& device, const DeviceModelParams& params, DeviceModel& model) {
  const DType dtype = weight_dtype(params.precision);
  const int64_t bytes = model.weight_bytes();
  const auto fill = [&](std::span<std::byte> out) {
    for (const std::string& line :
         nan_warnings(params.folder, Checkpoint(params.folder).read(model.layout, dtype, out))) {
      std::cerr << line << '\n';
    }
  };
  const auto copy = [&](const void* from) {
    TANDEM_CUDA_CHECK(cudaMemcpyAsync(model.arena.data(), from, static_cast<size_t>(bytes),
                                      cudaMemcpyHostToDevice, device.stream()));
    device.synchronize();  // before the host memory goes
  };
  if (params.level1 && !device.options().run_dir.empty()) {
    Level1Cache cache({.run_dir = device.options().run_dir, .cap_bytes = device.options().level1_bytes});
    if (bytes <= cache.cap_bytes()) {
      const std::string key = fmt::format("checkpoint {} {} {}", params.content, dtype_name(dtype),
                                          sha256_hex(nlohmann::json(params.config).dump()));
      const Level1Object object = cache.get(key, bytes, fill);
      const PageLock locked(const_cast<void*>(object.data()), bytes);
      return copy(object.data());
    }
  }
  std::vector<std::byte> host(static_cast<size_t>(bytes));
  fill(host);
  copy(host.data());
}

}  // namespace

DeviceModel load_device_model(Device& device, MemoryResource& memory, const DeviceModelParams& params) {
  const DType dtype = weight_dtype(params.precision);
  const bool rounds = params.rounded_to != Precision::kFp32 && params.rounded_to != params.precision;
  if (rounds && dtype != DType::kF32) {
    throw UsageError(fmt::format("precision: {} weights cannot be rounded as {}",
                                 precision_name(params.precision), precision_name(params.rounded_to)));
  }

  DeviceModel model{.config = params.config,
                    .precision = params.precision,
                    .layout = weight_layout(params.config),
                    .arena = {},
                    .weights = {}};
  model.arena = MemoryBlock(memory, model.weight_bytes());
  if (params.weights.checkpoint) {
    upload_checkpoint(device, params, model);
  } else {
    launch_seeded_arena({.spec = &params.weights,
                         .tensors = model.layout.tensors,
                         .elements = model.layout.elements,
                         .dtype = dtype,
                         .arena = model.arena.data()},
                        device.stream());
  }
  if (dtype == DType::kF32) {
    launch_round(static_cast<float*>(model.arena.data()), model.layout.elements, params.rounded_to,
                 device.stream());
  }
  model.weights = bind_weights(model.config, model.layout, model.arena.data(), dtype);
  device.synchronize();
  return model;
}

}  // namespace tandem::kernels
