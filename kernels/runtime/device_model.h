// A model's weights on the card.
#pragma once

#include <memory>
#include <string>

#include "harness/base/precision.h"
#include "harness/memory/memory_resource.h"
#include "harness/model/config.h"
#include "harness/weights/calibration/scales.h"
#include "harness/weights/pruning/prune.h"
#include "harness/weights/values/source.h"
#include "harness/weights/weights.h"
#include "kernels/runtime/device.h"

namespace tandem::kernels {

struct DeviceModel {
  ModelConfig config;                      ///< what pruning leaves of it
  Precision precision = Precision::kBf16;  ///< what is computed in
  WeightLayout layout;
  MemoryBlock arena;     ///< layout.bytes
  ModelWeights weights;  ///< views into the arena
  WeightCount count = {};

  int64_t weight_bytes() const { return layout.bytes; }
};

struct DeviceModelParams {
  ModelConfig config;
  WeightsSpec weights;
  Precision precision = Precision::kBf16;  ///< what is computed in; the storage is its own where the form is
  WeightForm form = {};                    ///< the values; another precision's only where fp32 is computed in
  std::shared_ptr<const ChannelScales> scales = {};  ///< of a calibrated form
  std::string folder = {};                           ///< of a checkpoint
  std::string content = {};                          ///< its SHA-256: what the Level-1 cache knows it by
  bool level1 = true;                                ///< may use the Level-1 cache
};

/// Seeded weights are a pure function of seed, name and index and are made on the card itself, whatever the
/// memory level: that takes less time than moving the same bytes from any host cache. A checkpoint is converted once a
/// run into the Level-1 cache and uploaded from there, or from this process's own memory where the cache has no room;
/// tensors with a NaN are named on stderr. Throws OutOfMemory, UsageError for a form that cannot be computed with in
/// `precision`, and what materialise throws.
DeviceModel load_device_model(Device& device, MemoryResource& memory, const DeviceModelParams& params);

}  // namespace tandem::kernels
