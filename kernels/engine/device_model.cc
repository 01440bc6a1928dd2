#include "kernels/engine/device_model.h"

#include <fmt/format.h>

#include "harness/base/error.h"
#include "kernels/engine/engine_kernels.h"
#include "kernels/seeded/seeded_fill.h"

namespace tandem::kernels {

DeviceModel load_device_model(Device& device, MemoryResource& memory, const DeviceModelParams& params) {
  if (params.weights.checkpoint)
    throw UsageError("weights: the CUDA engine makes seed:N and seed:N,outliers only");
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
  launch_seeded_arena({.spec = &params.weights,
                       .tensors = model.layout.tensors,
                       .elements = model.layout.elements,
                       .dtype = dtype,
                       .arena = model.arena.data()},
                      device.stream());
  if (dtype == DType::kF32) {
    launch_round(static_cast<float*>(model.arena.data()), model.layout.elements, params.rounded_to,
                 device.stream());
  }
  model.weights = bind_weights(model.config, model.layout, model.arena.data(), dtype);
  device.synchronize();
  return model;
}

}  // namespace tandem::kernels
