// Names, shapes and places of all weights of a model in one form. Engines, caches and tests share the layout; only the base
// address differs.
//
// Weights are [out, in] row-major: y = x W^T + b. Tensors of one group lie back to back, so that {q,k,v} of a
// self-attention, {k,v} of all layers' cross-attentions and {gate,up} of a gated FFN are each one matrix too; their scales
// and their metadata or bitmaps follow, back to back as well.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "harness/model/config.h"
#include "harness/weights/form.h"
#include "harness/weights/pruning/pruning.h"
#include "harness/weights/storage.h"

namespace tandem {

/// A tensor of the whole model: dense, every layer, every rank's rows. Value i of seeded weights is
/// base + centred_sum(stream_key(seed, name), i) * 2^exponent in fp32 (seeded.h; outliers multiply the sum by an integer
/// per row first). The scale is the whole model's, so that a slice or a pruned model has the whole one's values.
struct WholeTensor {
  std::string name;  ///< "encoder.layers.3.self.q.weight"
  int64_t rows = 1;
  int64_t cols = 0;
  float base = 0;  ///< 1 for norm gammas; the mean in general (seed_scale.h)
  int exponent = 0;
  bool outlier_rows = false;  ///< takes a per-row scale when outliers are asked for
  bool head = false;          ///< read as the vocabulary head: not as the table that it may be tied to
  int64_t size() const { return rows * cols; }
};

/// Neighbouring rows or columns of a whole tensor.
struct IndexRun {
  int64_t first = 0;
  int64_t count = 0;
  bool operator==(const IndexRun&) const = default;
};
/// Which rows (or columns) of a whole tensor are here, in this order. Indices past them, up to the tensor's own rows, are
/// padding: zeros.
using IndexRuns = std::vector<IndexRun>;

struct TensorSpec {
  std::string
      name;  ///< of this layout; another than whole.name where layers were removed or the head is stored apart
  int64_t rows = 1;
  int64_t cols = 0;
  WholeTensor whole = {};  ///< where the values come from
  IndexRuns row_runs = {}, col_runs = {};
  /// Columns that the smaller model has, of all ranks: what scales and masks of a row are of.
  IndexRuns model_cols = {};
  TensorUse use = TensorUse::kOther;
  Storage storage = {};
  std::optional<MatrixCut> cut = {};  ///< which weights are kept; none: all, or what 2:4 keeps
  int64_t offset = 0;                 ///< of the values, bytes from the start of the arena
  int64_t scale_offset = 0;           ///< of the scales, where the storage has any
  int64_t metadata_offset = 0;        ///< of the metadata, where the storage has any
  // With a bitmap:
  int64_t bitmap_offset = 0;
  int64_t starts_offset = 0;              ///< of row_starts, after those of the group's tensors before
  int64_t group_offset = 0;               ///< of the first value of the group: what rows start from
  std::vector<uint32_t> row_starts = {};  ///< [rows + 1], in units of Storage::kRowStartBytes
  int64_t size() const { return rows * cols; }
  int64_t value_bytes() const {
    return storage.bitmap ? (row_starts.back() - row_starts.front()) * Storage::kRowStartBytes
                          : rows * storage.value_row_bytes(cols);
  }
  int64_t starts_bytes() const { return rows * static_cast<int64_t>(sizeof(uint32_t)); }
  int64_t bitmap_bytes() const { return rows * storage.bitmap_row_bytes(cols); }
  int64_t scale_bytes() const { return rows * storage.scale_row_bytes(cols); }
  int64_t metadata_bytes() const { return rows * storage.metadata_row_bytes(cols); }
};

/// All tensors of a model in arena order.
struct WeightLayout {
  ModelConfig
      config;  ///< of the model that is computed: after layers, heads and ffn were removed, before it is sliced
  WeightForm form;
  bool expected = false;  ///< sizes of an expected pruning: nothing is made of it
  std::vector<TensorSpec> tensors = {};
  int64_t bytes = 0;                                   ///< arena size, padding included
  std::unordered_map<std::string, size_t> index = {};  ///< name to place in `tensors`

  /// Values of all tensors.
  int64_t size() const;
  /// Throws std::out_of_range for an unknown name.
  const TensorSpec& at(const std::string& name) const;
  bool contains(const std::string& name) const;
};

/// Groups start at multiples of this many bytes, and of 128 values.
inline constexpr int64_t kGroupAlignment = 256;
/// Rows, and scales of rows, that may be read past the end of a head of codes: there is memory, whatever it holds.
inline constexpr int64_t kReadPastRows = 8;

/// Checks the configuration (UsageError), and that slice and pruning fit it (ImpossibleCase for a degree that does not
/// divide or a row of 2:4 that four does not, UsageError for an index out of order), and lays its tensors out:
///   shared.embedding, or encoder.embedding and decoder.embedding   [vocab, d_model]
///   SIDE.position, SIDE.embedding_norm.{gamma,beta}, SIDE.relative_bias, SIDE.final_norm.{gamma,beta}
///   SIDE.layers.N.{self_norm,cross_norm,ffn_norm}.{gamma,beta}
///   SIDE.layers.N.{self,cross}.{q,k,v,out}.{weight,bias}, SIDE.layers.N.ffn.{gate,up,down}.{weight,bias}
///   SIDE.layers.N.relative_bias instead of SIDE.relative_bias where heads were removed
///   head.weight (untied, or stored otherwise than the embedding), head.bias
/// A slice holds whole heads of attention, columns of the FFN's inner dimension and rows of the vocabulary, the last rank's
/// padded with zeros; norms, positions and the biases of out and ffn.down are whole on every rank.
/// Throws Error where the form removes weights by their magnitude and `pruning` does not say which.
WeightLayout weight_layout(const ModelConfig& whole, const WeightForm& form, const Pruning& pruning);
/// Only whole parts are removed, whatever the form says of them.
WeightLayout weight_layout(const ModelConfig& whole, const WeightForm& form, const Kept& kept);
/// Of a form that removes something: as large as it is expected to be (expected_pruning).
WeightLayout weight_layout(const ModelConfig& whole, const WeightForm& form = {});
/// The configuration after `kept` was applied.
ModelConfig kept_config(const ModelConfig& whole, const Kept& kept);

}  // namespace tandem
