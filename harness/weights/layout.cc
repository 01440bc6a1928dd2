#include "harness/weights/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "harness/parallel/parallel.h"
#include "harness/weights/pruning/prune.h"
#include "harness/weights/values/seed_scale.h"

namespace tandem {
namespace {

std::string layer_name(std::string_view side, int layer, std::string_view tensor) {
  return fmt::format("{}.layers.{}.{}", side, layer, tensor);
}

IndexRuns all_of(int64_t count) {
  return {{0, count}};
}

/// Units [slice] of `kept` (empty: of all), each `width` neighbours, as few runs as possible.
IndexRuns runs_of(const std::vector<int>& kept, const Slice& slice, int64_t width) {
  if (kept.empty()) return {{slice.first * width, slice.count * width}};
  IndexRuns runs;
  for (int i = slice.first; i < slice.end(); ++i) {
    const int64_t first = kept[static_cast<size_t>(i)] * width;
    if (!runs.empty() && runs.back().first + runs.back().count == first) {
      runs.back().count += width;
    } else {
      runs.push_back({first, width});
    }
  }
  return runs;
}

int64_t count_of(const IndexRuns& runs) {
  int64_t count = 0;
  for (const IndexRun& run : runs) count += run.count;
  return count;
}

/// What this rank holds of one layer of one side.
struct LayerPart {
  int whole_layer = 0;  ///< its number in the whole model
  IndexRuns self_inner, cross_inner, ffn;
  IndexRuns all_self_inner, all_cross_inner, all_ffn;  ///< the same of all ranks
};

/// One side after pruning and slicing.
struct StackPart {
  std::string_view side;
  StackConfig whole, left;
  const KeptStack& kept;
  LayerParallelParam slice;

  LayerPart layer(int n, int head_dim) const {
    const auto list = [&](const std::vector<std::vector<int>>& lists) {
      return lists.empty() ? std::vector<int>() : lists[static_cast<size_t>(n)];
    };
    return {.whole_layer = kept.layers.empty() ? n : kept.layers[static_cast<size_t>(n)],
            .self_inner = runs_of(list(kept.self_heads), slice.head_slice, head_dim),
            .cross_inner = runs_of(list(kept.cross_heads), slice.head_slice, head_dim),
            .ffn = runs_of(list(kept.ffn), slice.ffn_slice, 1),
            .all_self_inner = runs_of(list(kept.self_heads), {0, left.heads}, head_dim),
            .all_cross_inner = runs_of(list(kept.cross_heads), {0, left.heads}, head_dim),
            .all_ffn = runs_of(list(kept.ffn), {0, left.d_ff}, 1)};
  }
};

// Appends tensors to a layout. Tensors of one group lie back to back.
class Builder {
 public:
  Builder(const ModelConfig& whole, const Pruning& pruning, WeightLayout& layout)
      : whole_(whole), pruning_(pruning), layout_(layout) {}

  struct Part {
    std::string name;  ///< here
    WholeTensor whole;
    IndexRuns rows, cols;
    IndexRuns model_cols = {};                 ///< empty: as cols
    int64_t padded_rows = 0, padded_cols = 0;  ///< 0: as many as the runs have
  };

  void group(std::vector<Part> parts, TensorUse use) {
    Storage storage = storage_of(layout_.form, use);
    storage.bitmap =
        !layout_.form.plain && !layout_.form.zeros_stored && use == TensorUse::kProduct && bitmap_pays(parts);
    const size_t first = layout_.tensors.size();
    align(std::max<int64_t>(kGroupAlignment, tensor_bytes(storage.dtype, 128)));
    for (Part& p : parts) {
      const int64_t rows = p.padded_rows != 0 ? p.padded_rows : count_of(p.rows);
      const int64_t cols = p.padded_cols != 0 ? p.padded_cols : count_of(p.cols);
      const PrunedMatrix* pruned = use == TensorUse::kProduct ? pruned_matrix(p.name) : nullptr;
      layout_.index.emplace(p.name, layout_.tensors.size());
      layout_.tensors.push_back({.name = std::move(p.name),
                                 .rows = rows,
                                 .cols = cols,
                                 .whole = std::move(p.whole),
                                 .row_runs = std::move(p.rows),
                                 .col_runs = p.cols,
                                 .model_cols = p.model_cols.empty() ? p.cols : std::move(p.model_cols),
                                 .use = use,
                                 .storage = storage,
                                 .cut = pruned == nullptr ? std::nullopt : std::optional(pruned->cut)});
      if (storage.bitmap)
        start_rows(layout_.tensors.back(), pruned->row_kept, layout_.tensors.size() - 1 == first);
    }
    if (use == TensorUse::kProduct) check_fours(first);
    place(first, &TensorSpec::offset, &TensorSpec::value_bytes);
    if (storage.scale_group != 0) place(first, &TensorSpec::scale_offset, &TensorSpec::scale_bytes);
    if (storage.two_of_four) place(first, &TensorSpec::metadata_offset, &TensorSpec::metadata_bytes);
    if (storage.bitmap) {
      place(first, &TensorSpec::bitmap_offset, &TensorSpec::bitmap_bytes);
      place(first, &TensorSpec::starts_offset, &TensorSpec::starts_bytes);
      layout_.bytes += static_cast<int64_t>(sizeof(uint32_t));  // where the last row ends
      for (size_t i = first; i < layout_.tensors.size(); ++i)
        layout_.tensors[i].group_offset = layout_.tensors[first].offset;
    }
  }

  void table(std::string name, int64_t rows, int64_t cols, double deviation) {
    group({{.name = name,
            .whole = {.name = name, .rows = rows, .cols = cols, .exponent = seed_exponent(deviation)},
            .rows = all_of(rows),
            .cols = all_of(cols)}},
          TensorUse::kOther);
  }

  /// A norm's vectors, named `name` here and `whole` in the whole model.
  void norm(const std::string& name, const std::string& whole, double gamma = 1) {
    const auto vector = [&](const char* field, double mean, double deviation) {
      group({{.name = name + field,
              .whole = {.name = whole + field,
                        .cols = whole_.d_model,
                        .base = static_cast<float>(mean),
                        .exponent = seed_exponent(deviation)},
              .rows = all_of(1),
              .cols = all_of(whole_.d_model)}},
            TensorUse::kOther);
    };
    vector(".gamma", gamma, kGammaDeviation);
    if (whole_.norm == Norm::kLayer) vector(".beta", 0, kBetaDeviation);
  }
  void norm(const std::string& name, double gamma = 1) { norm(name, name, gamma); }

  struct Dense {
    std::string name, whole;
    int64_t whole_out = 0, whole_in = 0;
    IndexRuns out, in, model_in;
    DenseScale scale;
  };

  // The weights of `parts` back to back, then their biases back to back.
  void dense(const std::vector<Dense>& parts) {
    std::vector<Part> weights, biases;
    for (const Dense& d : parts) {
      weights.push_back({.name = d.name + ".weight",
                         .whole = {.name = d.whole + ".weight",
                                   .rows = d.whole_out,
                                   .cols = d.whole_in,
                                   .exponent = seed_exponent(d.scale.weight),
                                   .outlier_rows = true},
                         .rows = d.out,
                         .cols = d.in,
                         .model_cols = d.model_in});
      biases.push_back({.name = d.name + ".bias",
                        .whole = {.name = d.whole + ".bias",
                                  .cols = d.whole_out,
                                  .base = static_cast<float>(d.scale.bias_mean),
                                  .exponent = seed_exponent(d.scale.bias)},
                        .rows = all_of(1),
                        .cols = d.out});
    }
    group(std::move(weights), TensorUse::kProduct);
    if (whole_.bias) group(std::move(biases), TensorUse::kOther);
  }

  void align(int64_t to) { layout_.bytes = round_up(layout_.bytes, to); }

 private:
  /// Gives one part of the storage of a group's tensors its places.
  void place(size_t first, int64_t TensorSpec::*offset, int64_t (TensorSpec::*bytes)() const) {
    align(kGroupAlignment);
    for (size_t i = first; i < layout_.tensors.size(); ++i) {
      TensorSpec& t = layout_.tensors[i];
      t.*offset = layout_.bytes;
      layout_.bytes += (t.*bytes)();
    }
  }

  /// Which of its weights go by their magnitude, or nullptr: none.
  const PrunedMatrix* pruned_matrix(const std::string& name) const {
    const auto found = pruning_.matrices.find(name);
    if (found != pruning_.matrices.end()) return &found->second;
    if (layout_.form.sparsity.by_magnitude())
      throw Error(fmt::format("weights: nothing says which of {} are kept", name));
    return nullptr;
  }

  bool bitmap_pays(const std::vector<Part>& parts) const {
    int64_t size = 0, kept = 0;
    for (const Part& p : parts) {
      const PrunedMatrix* pruned = pruned_matrix(p.name);
      if (pruned == nullptr) return false;
      size += pruned->size;
      kept += pruned->kept;
    }
    return static_cast<double>(size - kept) >= kBitmapLeastRemoved * static_cast<double>(size);
  }

  /// Where each row's values start, after those of the tensor before in its group.
  void start_rows(TensorSpec& t, const std::vector<uint32_t>& row_kept, bool first) {
    if (static_cast<int64_t>(row_kept.size()) != t.rows)
      throw Error(
          fmt::format("weights: {} rows of {} were counted, it has {}", row_kept.size(), t.name, t.rows));
    int64_t at = first ? 0 : layout_.tensors[layout_.tensors.size() - 2].row_starts.back();
    for (const uint32_t kept : row_kept) {
      t.row_starts.push_back(static_cast<uint32_t>(at));
      at += t.storage.packed_row_bytes(kept) / Storage::kRowStartBytes;
    }
    t.row_starts.push_back(static_cast<uint32_t>(at));
  }

  /// Throws ImpossibleCase unless four divides the rows of 2:4, of the model and of this rank.
  void check_fours(size_t first) const {
    if (!layout_.form.sparsity.two_of_four) return;
    for (size_t i = first; i < layout_.tensors.size(); ++i) {
      const TensorSpec& t = layout_.tensors[i];
      if (t.cols % 4 == 0 && count_of(t.model_cols) % 4 == 0) continue;
      throw ImpossibleCase(fmt::format("sparsity: 2:4 needs rows that 4 divides, {} has {} columns{}", t.name,
                                       t.cols, layout_.form.slice.degree == 1 ? "" : " on a rank"));
    }
  }

  const ModelConfig& whole_;
  const Pruning& pruning_;
  WeightLayout& layout_;
};

/// Lays out a model, one function a part of it.
class ModelLayout {
 public:
  ModelLayout(const ModelConfig& whole, const Pruning& pruning, WeightLayout& layout)
      : c_(whole),
        layout_(layout),
        scale_(whole),
        b_(whole, pruning, layout),
        encoder_(part("encoder", whole.encoder, layout.config.encoder, pruning.kept.encoder)),
        decoder_(part("decoder", whole.decoder, layout.config.decoder, pruning.kept.decoder)) {}

  void build() {
    if (c_.shared_embeddings) vocabulary("shared.embedding", scale_.embedding(), TensorUse::kOther);
    front(encoder_);
    for (int layer = 0; layer < layout_.config.encoder.layers; ++layer) {
      const LayerPart p = encoder_.layer(layer, c_.head_dim);
      self_attention(encoder_, layer, p, scale_.encoder_self(p.whole_layer));
      ffn(encoder_, layer, p, scale_.encoder_ffn(p.whole_layer));
    }
    if (c_.final_norm) b_.norm("encoder.final_norm");

    front(decoder_);
    cross_keys_values();
    const int last = layout_.config.decoder.layers - 1;
    for (int layer = 0; layer <= last; ++layer) {
      const LayerPart p = decoder_.layer(layer, c_.head_dim);
      self_attention(decoder_, layer, p, scale_.decoder_self(p.whole_layer));
      cross_attention(layer, p, scale_.decoder_cross(p.whole_layer));
      const bool last_norm =
          c_.placement == NormPlacement::kPost && !c_.final_norm && p.whole_layer == c_.decoder.layers - 1;
      ffn(decoder_, layer, p, scale_.decoder_ffn(p.whole_layer), last_norm ? scale_.last_gamma() : 1);
    }
    if (c_.final_norm) b_.norm("decoder.final_norm", scale_.last_gamma());
    head();
    b_.align(std::max<int64_t>(kGroupAlignment, 128 * dtype_bytes(activation_type())));
  }

 private:
  StackPart part(std::string_view side, const StackConfig& whole, const StackConfig& kept,
                 const KeptStack& lists) {
    return {side, whole, kept, lists,
            layer_parallel(kept, c_.vocab, layout_.form.slice.degree, layout_.form.slice.rank, 0)};
  }

  DType activation_type() const { return storage_of(layout_.form, TensorUse::kOther).dtype; }

  /// [vocab, d_model], this rank's rows, padded to what every rank has.
  void vocabulary(const std::string& name, double deviation, TensorUse use, const std::string& whole = "") {
    b_.group({{.name = name,
               .whole = {.name = whole.empty() ? name : whole,
                         .rows = c_.vocab,
                         .cols = c_.d_model,
                         .exponent = seed_exponent(deviation),
                         .head = use == TensorUse::kHead},
               .rows = vocabulary_runs(),
               .cols = all_of(c_.d_model),
               .padded_rows = vocabulary_rows()}},
             use);
  }
  IndexRuns vocabulary_runs() const {
    const Slice& slice = decoder_.slice.vocab_slice;
    return {{slice.first, slice.count}};
  }
  int64_t vocabulary_rows() const { return ceil_div(c_.vocab, decoder_.slice.degree); }

  // Around the layers: embedding unless shared, positions, embedding norm, relative bias.
  void front(const StackPart& s) {
    const std::string prefix = std::string(s.side) + ".";
    if (!c_.shared_embeddings) vocabulary(prefix + "embedding", scale_.embedding(), TensorUse::kOther);
    if (c_.position == Position::kLearned)
      b_.table(prefix + "position", c_.position_offset + c_.max_positions, c_.d_model, scale_.position());
    if (c_.embedding_norm) b_.norm(prefix + "embedding_norm");
    if (c_.position == Position::kRelative && s.kept.self_heads.empty())
      relative_bias(s, prefix, runs_of({}, s.slice.head_slice, 1));
  }

  /// The columns of some heads.
  void relative_bias(const StackPart& s, const std::string& prefix, const IndexRuns& heads) {
    b_.group({{.name = prefix + "relative_bias",
               .whole = {.name = fmt::format("{}.relative_bias", s.side),
                         .rows = c_.relative_buckets,
                         .cols = s.whole.heads,
                         .exponent = seed_exponent(kRelativeBiasDeviation)},
               .rows = all_of(c_.relative_buckets),
               .cols = heads}},
             TensorUse::kOther);
  }

  Builder::Dense product(std::string_view side, int layer, const LayerPart& p, std::string_view tensor,
                         const IndexRuns& out, int64_t whole_out, const IndexRuns& in, int64_t whole_in,
                         const DenseScale& scale, const IndexRuns& model_in = {}) const {
    return {.name = layer_name(side, layer, tensor),
            .whole = layer_name(side, p.whole_layer, tensor),
            .whole_out = whole_out,
            .whole_in = whole_in,
            .out = out,
            .in = in,
            .model_in = model_in,
            .scale = scale};
  }

  void layer_norm(std::string_view side, int layer, const LayerPart& p, std::string_view tensor,
                  double gamma = 1) {
    b_.norm(layer_name(side, layer, tensor), layer_name(side, p.whole_layer, tensor), gamma);
  }

  void self_attention(const StackPart& s, int layer, const LayerPart& p, const AttentionScale& scale) {
    const int64_t d = c_.d_model, inner = c_.inner(s.whole);
    const IndexRuns model = all_of(d);
    layer_norm(s.side, layer, p, "self_norm");
    // Other heads are left in each layer: each has the columns of its own.
    if (c_.position == Position::kRelative && !s.kept.self_heads.empty()) {
      const auto& heads = s.kept.self_heads[static_cast<size_t>(layer)];
      relative_bias(s, fmt::format("{}.layers.{}.", s.side, layer), runs_of(heads, s.slice.head_slice, 1));
    }
    b_.dense({product(s.side, layer, p, "self.q", p.self_inner, inner, model, d, scale.q),
              product(s.side, layer, p, "self.k", p.self_inner, inner, model, d, scale.k),
              product(s.side, layer, p, "self.v", p.self_inner, inner, model, d, scale.v)});
    b_.dense(
        {product(s.side, layer, p, "self.out", model, d, p.self_inner, inner, scale.out, p.all_self_inner)});
  }

  // The keys and values of all layers' cross-attentions together: one product makes them.
  void cross_keys_values() {
    const int64_t d = c_.d_model, inner = c_.inner(c_.decoder);
    std::vector<Builder::Dense> parts;
    for (int layer = 0; layer < layout_.config.decoder.layers; ++layer) {
      const LayerPart p = decoder_.layer(layer, c_.head_dim);
      const AttentionScale s = scale_.decoder_cross(p.whole_layer);
      parts.push_back(product("decoder", layer, p, "cross.k", p.cross_inner, inner, all_of(d), d, s.k));
      parts.push_back(product("decoder", layer, p, "cross.v", p.cross_inner, inner, all_of(d), d, s.v));
    }
    b_.dense(parts);
  }

  void cross_attention(int layer, const LayerPart& p, const AttentionScale& s) {
    const int64_t d = c_.d_model, inner = c_.inner(c_.decoder);
    layer_norm("decoder", layer, p, "cross_norm");
    b_.dense({product("decoder", layer, p, "cross.q", p.cross_inner, inner, all_of(d), d, s.q)});
    b_.dense({product("decoder", layer, p, "cross.out", all_of(d), d, p.cross_inner, inner, s.out,
                      p.all_cross_inner)});
  }

  void ffn(const StackPart& s, int layer, const LayerPart& p, const FfnScale& scale, double gamma = 1) {
    const int64_t d = c_.d_model, inner = s.whole.d_ff;
    layer_norm(s.side, layer, p, "ffn_norm", gamma);
    const auto up = [&](const char* tensor) {
      return product(s.side, layer, p, tensor, p.ffn, inner, all_of(d), d, scale.up);
    };
    if (c_.gated) {
      b_.dense({up("ffn.gate"), up("ffn.up")});
    } else {
      b_.dense({up("ffn.up")});
    }
    b_.dense({product(s.side, layer, p, "ffn.down", all_of(d), d, p.ffn, inner, scale.down, p.all_ffn)});
  }

  void head() {
    const std::string embedding = c_.shared_embeddings ? "shared.embedding" : "decoder.embedding";
    if (!c_.tied_head) {
      vocabulary("head.weight", scale_.head(), TensorUse::kHead);
    } else if (!(own_storage(layout_.form, TensorUse::kHead) ==
                 own_storage(layout_.form, TensorUse::kOther))) {
      vocabulary("head.weight", scale_.embedding(), TensorUse::kHead, embedding);
    }
    if (!c_.head_bias) return;
    b_.group(
        {{.name = "head.bias",
          .whole = {.name = "head.bias", .cols = c_.vocab, .exponent = seed_exponent(kHeadBiasDeviation)},
          .rows = all_of(1),
          .cols = vocabulary_runs(),
          .padded_cols = vocabulary_rows()}},
        TensorUse::kOther);
  }

  const ModelConfig& c_;
  WeightLayout& layout_;
  SeedScale scale_;
  Builder b_;
  StackPart encoder_, decoder_;
};

}  // namespace

int64_t WeightLayout::size() const {
  int64_t values = 0;
  for (const TensorSpec& t : tensors) values += t.size();
  return values;
}

const TensorSpec& WeightLayout::at(const std::string& name) const {
  const auto found = index.find(name);
  if (found == index.end()) throw std::out_of_range("no tensor is named " + name);
  return tensors[found->second];
}

bool WeightLayout::contains(const std::string& name) const {
  return index.contains(name);
}

WeightLayout weight_layout(const ModelConfig& whole, const WeightForm& form, const Pruning& pruning) {
  check(whole);
  WeightLayout layout{.config = kept_config(whole, pruning.kept), .form = form, .expected = pruning.expected};
  ModelLayout(whole, pruning, layout).build();
  for (const TensorSpec& t : layout.tensors) {
    if (t.use != TensorUse::kHead || t.storage.scale_group == 0) continue;
    layout.bytes =
        std::max({layout.bytes, t.offset + (t.rows + kReadPastRows) * t.storage.value_row_bytes(t.cols),
                  t.scale_offset + (t.rows + kReadPastRows) * t.storage.scale_row_bytes(t.cols)});
  }
  return layout;
}

WeightLayout weight_layout(const ModelConfig& whole, const WeightForm& form, const Kept& kept) {
  return weight_layout(whole, form, Pruning{.kept = kept});
}

WeightLayout weight_layout(const ModelConfig& whole, const WeightForm& form) {
  return weight_layout(whole, form, form.sparsity.dense() ? Pruning{} : expected_pruning(whole, form));
}

}  // namespace tandem
