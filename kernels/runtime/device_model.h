// A model's weights on the card.
#pragma once

#include <string>

#include "harness/base/precision.h"
#include "harness/memory/memory_resource.h"
#include "harness/model/config.h"
#include "harness/weights/seeded.h"
#include "harness/weights/weights.h"
#include "kernels/runtime/device.h"

namespace tandem::kernels {

struct DeviceModel {
  ModelConfig config;
  Precision precision = Precision::kBf16;  ///< of the arena
  WeightLayout layout;
  MemoryBlock arena;     ///< [layout.elements]
  ModelWeights weights;  ///< views into the arena

  int64_t weight_bytes() const { return layout.elements * dtype_bytes(weight_dtype(precision)); }
};

struct DeviceModelParams {
  ModelConfig config;
  WeightsSpec weights;
  Precision precision = Precision::kBf16;  ///< storage
  Precision rounded_to =
      Precision::kBf16;      ///< the grid that the values lie on; narrower only for fp32 storage
  std::string folder = {};   ///< of a checkpoint
  std::string content = {};  ///< its SHA-256: what the Level-1 cache knows it by
  bool level1 = true;        ///< may use the Level-1 cache
};

/// Seeded weights are a pure function of seed, name and index and are made on the card itself, whatever the
/// memory level: that takes less time than moving the same bytes from any host cache. A checkpoint is converted once a
/// run into the Level-1 cache and uploaded from there; tensors with a NaN are named on stderr. Throws OutOfMemory,
/// UsageError for a grid that the storage cannot hold, and what Checkpoint throws.
DeviceModel load_device_model(Device& device, MemoryResource& memory, const DeviceModelParams& params);

}  // namespace tandem::kernels
