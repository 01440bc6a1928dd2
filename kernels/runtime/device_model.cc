#include "kernels/runtime/device_model.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <cstddef>
#include <iostream>
#include <optional>
#include <span>
#include <utility>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"
#include "harness/engine/calibration.h"
#include "harness/memory/gpu_resource.h"
#include "harness/memory/level1_cache.h"
#include "harness/weights/materialise.h"
#include "harness/weights/pruning/prune.h"
#include "harness/weights/pruning/remembered.h"
#include "kernels/plan/card_form.h"
#include "kernels/seeded/round.h"
#include "kernels/seeded/seeded_cut.h"
#include "kernels/seeded/seeded_fill.h"

namespace tandem::kernels {
namespace {

/// The form as this precision computes with it: its own storage, or the same values in fp32.
WeightForm stored_form(const DeviceModelParams& p) {
  if (p.form.precision == p.precision) return card_form(p.form);
  if (weight_dtype(p.precision) != DType::kF32) {
    throw UsageError(fmt::format("precision: {} cannot compute with weights of the form {}",
                                 precision_name(p.precision), form_text(p.form)));
  }
  return p.form.in_fp32();
}

/// What materialise() needs of a card.
WeightTarget target_of(Device& device, DeviceModel& model) {
  return {.upload =
              [&](std::span<const std::byte> arena, bool shared) {
                std::optional<PageLock> locked;
                if (shared)
                  locked.emplace(const_cast<std::byte*>(arena.data()), static_cast<int64_t>(arena.size()));
                TANDEM_CUDA_CHECK(cudaMemcpyAsync(model.arena.data(), arena.data(), arena.size(),
                                                  cudaMemcpyHostToDevice, device.stream()));
                device.synchronize();  // before the host memory goes
              },
          .fill =
              [&](const WeightsSpec& spec, const WeightLayout& layout) {
                if (!seeded_arena_fits(layout)) return false;
                launch_seeded_arena({.spec = &spec, .layout = &layout, .arena = model.arena.data()},
                                    device.stream());
                if (storage_of(layout.form, TensorUse::kOther).dtype == DType::kF32) {
                  launch_round(static_cast<float*>(model.arena.data()),
                               layout.bytes / static_cast<int64_t>(sizeof(float)), layout.form.precision,
                               device.stream());
                }
                return true;
              }};
}

/// What the form removes, chosen on the card where the values are made there.
Pruning pruned(Device& device, const DeviceModelParams& p, const WeightSource& values, Level1Cache* cache) {
  if (p.form.sparsity.dense()) return {};
  const std::string content = p.weights.checkpoint ? fmt::format("checkpoint {}", p.content) : "";
  return remembered_pruning(
      cache, content, values, p.config, p.form,
      p.weights.checkpoint ? MatrixPruner() : seeded_pruner(p.weights, device.stream()));
}

}  // namespace

DeviceModel load_device_model(Device& device, MemoryResource& memory, const DeviceModelParams& params) {
  check_made(params.form);
  auto values = weight_source(params.weights, params.folder);
  // The card makes seeded weights faster than they are read, but for what masks leave of them; which go is worth keeping always.
  std::optional<Level1Cache> cache;
  if (params.level1 && (params.weights.checkpoint || !params.form.sparsity.dense()) &&
      !device.options().run_dir.empty()) {
    cache.emplace(Level1Cache::Options{.run_dir = device.options().run_dir,
                                       .cap_bytes = device.options().level1_bytes});
  }
  const Pruning pruning = pruned(device, params, *values, cache ? &*cache : nullptr);
  DeviceModel model{.config = params.config,
                    .precision = params.precision,
                    .layout = weight_layout(params.config, stored_form(params), pruning),
                    .arena = {},
                    .weights = {},
                    .count = count_weights(params.config, params.form, pruning)};
  model.config = model.layout.config;
  model.arena = MemoryBlock(memory, model.weight_bytes());
  WeightTarget target = target_of(device, model);
  const auto source =
      values_of_form(std::move(values), weight_layout(params.config, params.form), params.scales.get());
  if (cache && (params.weights.checkpoint || params.form.sparsity.masks())) {
    target.cache = &*cache;
    if (params.weights.checkpoint) {
      const bool calibrated = params.form.calibration != Calibration::kNone;
      target.content =
          fmt::format("checkpoint {} {}", params.content, calibrated ? params.scales->digest() : "as it is");
    }
  }
  materialise(*source, model.layout, target);
  for (const std::string& line : source->warnings()) std::cerr << line << '\n';
  // The values may be another precision's; what products do with their rows is this one's.
  WeightLayout computed = model.layout;
  computed.form.precision = params.precision;
  model.weights = bind_weights(computed, model.arena.data());
  device.synchronize();
  return model;
}

}  // namespace tandem::kernels
