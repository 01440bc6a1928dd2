// The one way from where values come from to where they are computed with.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "harness/memory/level1_cache.h"
#include "harness/weights/layout.h"
#include "harness/weights/pruning/prune.h"
#include "harness/weights/values/source.h"
#include "harness/weights/weights.h"

namespace tandem {

/// Where weights go. Either host memory, or a device that takes whole arenas.
struct WeightTarget {
  std::span<std::byte> host = {};  ///< layout.bytes of them
  /// Copies a whole arena to the device; returns when it has arrived. `shared`: the bytes are the Level-1 cache's, and
  /// page-locking them pays.
  std::function<void(std::span<const std::byte> arena, bool shared)> upload = {};
  /// Makes seeded weights in place, with the bits that the host would make. Says whether it did: it need not for a layout
  /// that is not plain. Empty: it never does.
  std::function<bool(const WeightsSpec& spec, const WeightLayout& layout)> fill = {};
  /// Keeps what is uploaded for other processes; null: nothing does. A full cache keeps nothing, and the weights arrive all
  /// the same.
  Level1Cache* cache = nullptr;
  std::string content = {};  ///< SHA-256 of what the source reads, where its own key is a path
};

/// Brings the weights of `layout` from `source` to `target`. Throws ImpossibleCase for a form that is not made here
/// (check_made), Error for a calibrated form without a source of its values (calibration/calibrated.h), OutOfMemory for host
/// memory, and what source and target throw.
void materialise(const WeightSource& source, const WeightLayout& layout, const WeightTarget& target);
/// The source of a case's `weights`: a seed, or the checkpoint folder `model`. Throws what Checkpoint throws.
std::unique_ptr<WeightSource> weight_source(const WeightsSpec& spec, const std::string& model);

/// The values of one rectangle of a tensor, on the grid of the layout's form, in fp32.
void read_rounded(const WeightSource& source, const WeightLayout& layout, const TensorSpec& tensor,
                  const Rectangle& at, std::span<float> out);
/// The same stored at its place in an arena: values, or codes with the scales of the groups that the rectangle touches.
/// Padding is stored too. Throws ImpossibleCase where a group of this layout would need scales of two groups of the whole
/// matrix. Of a sparse storage the whole groups of four, or the whole rows, that the rectangle touches are stored.
void store_rectangle(const WeightSource& source, const WeightLayout& layout, const TensorSpec& tensor,
                     const Rectangle& at, std::span<std::byte> arena);

/// Weights in host memory, in fp32: what the reference and the tests compute with.
struct HostWeights {
  WeightLayout layout;
  std::vector<float> arena = {};
  WeightCount count = {};  ///< of what was removed; zeros where nobody counted

  const ModelConfig& config() const { return layout.config; }
  /// Views into the arena; they hold until it moves.
  ModelWeights weights() const { return bind_weights(layout, arena.data()); }
  /// Values of a tensor, row after row.
  std::span<float> tensor(const std::string& name);
  std::span<const float> tensor(const std::string& name) const;
};
/// The values of `form` in fp32. Throws what materialise throws.
HostWeights host_weights(const ModelConfig& config, const WeightSource& source, const WeightForm& form = {});
HostWeights host_weights(const ModelConfig& config, const WeightsSpec& seed, const WeightForm& form = {});
/// The layout in fp32 with every value 0, for tests that fill it themselves.
HostWeights empty_host_weights(const ModelConfig& config);

}  // namespace tandem
