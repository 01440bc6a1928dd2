#include "harness/weights/weights.h"

#include <fmt/format.h>

#include <cstddef>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "harness/weights/seed_scale.h"

namespace tandem {
namespace {

constexpr int64_t kGroupAlignment = 128;

std::string layer_name(std::string_view side, int layer, std::string_view tensor) {
  return fmt::format("{}.layers.{}.{}", side, layer, tensor);
}

// Appends tensors to a layout. Tensors added between two calls of group() lie back to back.
class Builder {
 public:
  explicit Builder(const ModelConfig& config) : config_(config) {}

  void group() {
    layout_.elements = (layout_.elements + kGroupAlignment - 1) / kGroupAlignment * kGroupAlignment;
  }

  void add(TensorSpec spec) {
    spec.offset = layout_.elements;
    layout_.elements += spec.size();
    layout_.index.emplace(spec.name, layout_.tensors.size());
    layout_.tensors.push_back(std::move(spec));
  }

  void table(std::string name, int64_t rows, int64_t cols, double deviation) {
    group();
    add({.name = std::move(name), .rows = rows, .cols = cols, .exponent = seed_exponent(deviation)});
  }

  void norm(const std::string& name, double gamma = 1) {
    group();
    add({.name = name + ".gamma",
         .cols = config_.d_model,
         .base = static_cast<float>(gamma),
         .exponent = seed_exponent(kGammaDeviation)});
    if (config_.norm != Norm::kLayer) return;
    group();
    add({.name = name + ".beta", .cols = config_.d_model, .exponent = seed_exponent(kBetaDeviation)});
  }

  struct Dense {
    std::string name;
    int64_t out = 0;
    int64_t in = 0;
    DenseScale scale;
  };

  // The weights of `parts` back to back, then their biases back to back.
  void dense(const std::vector<Dense>& parts) {
    group();
    for (const Dense& d : parts) {
      add({.name = d.name + ".weight",
           .rows = d.out,
           .cols = d.in,
           .exponent = seed_exponent(d.scale.weight),
           .outlier_rows = true});
    }
    if (!config_.bias) return;
    group();
    for (const Dense& d : parts) {
      add({.name = d.name + ".bias",
           .cols = d.out,
           .base = static_cast<float>(d.scale.bias_mean),
           .exponent = seed_exponent(d.scale.bias)});
    }
  }

  WeightLayout finish() {
    group();
    return std::move(layout_);
  }

 private:
  const ModelConfig& config_;
  WeightLayout layout_;
};

// Around the layers: embedding unless shared, positions, embedding norm, relative bias.
void add_front(Builder& b, const ModelConfig& c, std::string_view side, const StackConfig& stack,
               const SeedScale& scale) {
  const std::string prefix = std::string(side) + ".";
  if (!c.shared_embeddings) b.table(prefix + "embedding", c.vocab, c.d_model, scale.embedding());
  if (c.position == Position::kLearned) {
    b.table(prefix + "position", c.position_offset + c.max_positions, c.d_model, scale.position());
  }
  if (c.embedding_norm) b.norm(prefix + "embedding_norm");
  if (c.position == Position::kRelative) {
    b.table(prefix + "relative_bias", c.relative_buckets, stack.heads, kRelativeBiasDeviation);
  }
}

void add_self(Builder& b, const ModelConfig& c, std::string_view side, int layer, int64_t inner,
              const AttentionScale& s) {
  const int64_t d = c.d_model;
  b.norm(layer_name(side, layer, "self_norm"));
  b.dense({{layer_name(side, layer, "self.q"), inner, d, s.q},
           {layer_name(side, layer, "self.k"), inner, d, s.k},
           {layer_name(side, layer, "self.v"), inner, d, s.v}});
  b.dense({{layer_name(side, layer, "self.out"), d, inner, s.out}});
}

// The k and v of cross-attention lie elsewhere: those of all layers together.
void add_cross(Builder& b, const ModelConfig& c, int layer, int64_t inner, const AttentionScale& s) {
  b.norm(layer_name("decoder", layer, "cross_norm"));
  b.dense({{layer_name("decoder", layer, "cross.q"), inner, c.d_model, s.q}});
  b.dense({{layer_name("decoder", layer, "cross.out"), c.d_model, inner, s.out}});
}

void add_ffn(Builder& b, const ModelConfig& c, std::string_view side, int layer, int64_t d_ff,
             const FfnScale& s, double gamma = 1) {
  const int64_t d = c.d_model;
  b.norm(layer_name(side, layer, "ffn_norm"), gamma);
  if (c.gated) {
    b.dense({{layer_name(side, layer, "ffn.gate"), d_ff, d, s.up},
             {layer_name(side, layer, "ffn.up"), d_ff, d, s.up}});
  } else {
    b.dense({{layer_name(side, layer, "ffn.up"), d_ff, d, s.up}});
  }
  b.dense({{layer_name(side, layer, "ffn.down"), d, d_ff, s.down}});
}

// Finds tensors by name and makes views of them.
class Binder {
 public:
  Binder(const WeightLayout& layout, const void* base, DType dtype)
      : layout_(layout), base_(base), dtype_(dtype) {}

  TensorView view(const std::string& name) const {
    if (!layout_.contains(name)) return {};
    const TensorSpec& spec = layout_.at(name);
    return {address(spec.offset), dtype_, spec.rows, spec.cols};
  }

  NormWeight norm(const std::string& name) const { return {view(name + ".gamma"), view(name + ".beta")}; }
  DenseWeight dense(const std::string& name) const { return {view(name + ".weight"), view(name + ".bias")}; }

 private:
  const void* address(int64_t offset) const {
    return static_cast<const std::byte*>(base_) + offset * dtype_bytes(dtype_);
  }

  const WeightLayout& layout_;
  const void* base_;
  DType dtype_;
};

// `count` equal matrices that lie back to back from `first`, as one; their biases too.
DenseWeight stacked(const DenseWeight& first, int64_t count) {
  DenseWeight all = first;
  all.weight.rows *= count;
  if (!all.bias.empty()) all.bias.cols *= count;
  return all;
}

AttentionWeight bind_attention(const Binder& b, const std::string& name, bool self) {
  AttentionWeight w{.q = b.dense(name + ".q"),
                    .k = b.dense(name + ".k"),
                    .v = b.dense(name + ".v"),
                    .out = b.dense(name + ".out"),
                    .qkv = {},
                    .kv = {}};
  w.kv = stacked(w.k, 2);
  if (self) w.qkv = stacked(w.q, 3);
  return w;
}

FfnWeight bind_ffn(const Binder& b, const std::string& name) {
  FfnWeight w{.gate = b.dense(name + ".gate"),
              .up = b.dense(name + ".up"),
              .down = b.dense(name + ".down"),
              .gate_up = {}};
  if (!w.gate.weight.empty()) w.gate_up = stacked(w.gate, 2);
  return w;
}

void bind_stack(const Binder& b, const ModelConfig& c, const std::string& side, StackWeight& w) {
  w.embedding = b.view(c.shared_embeddings ? "shared.embedding" : side + ".embedding");
  w.position = b.view(side + ".position");
  w.embedding_norm = b.norm(side + ".embedding_norm");
  w.relative_bias = b.view(side + ".relative_bias");
  w.final_norm = b.norm(side + ".final_norm");
}

}  // namespace

const TensorSpec& WeightLayout::at(const std::string& name) const {
  const auto found = index.find(name);
  if (found == index.end()) throw std::out_of_range("no tensor is named " + name);
  return tensors[found->second];
}

bool WeightLayout::contains(const std::string& name) const {
  return index.contains(name);
}

WeightLayout weight_layout(const ModelConfig& c) {
  check(c);
  const SeedScale scale(c);
  const int64_t encoder_inner = c.inner(c.encoder);
  const int64_t decoder_inner = c.inner(c.decoder);
  Builder b(c);

  if (c.shared_embeddings) b.table("shared.embedding", c.vocab, c.d_model, scale.embedding());

  add_front(b, c, "encoder", c.encoder, scale);
  for (int layer = 0; layer < c.encoder.layers; ++layer) {
    add_self(b, c, "encoder", layer, encoder_inner, scale.encoder_self(layer));
    add_ffn(b, c, "encoder", layer, c.encoder.d_ff, scale.encoder_ffn(layer));
  }
  if (c.final_norm) b.norm("encoder.final_norm");

  add_front(b, c, "decoder", c.decoder, scale);
  std::vector<Builder::Dense> cross_kv;
  for (int layer = 0; layer < c.decoder.layers; ++layer) {
    const AttentionScale s = scale.decoder_cross(layer);
    cross_kv.push_back({layer_name("decoder", layer, "cross.k"), decoder_inner, c.d_model, s.k});
    cross_kv.push_back({layer_name("decoder", layer, "cross.v"), decoder_inner, c.d_model, s.v});
  }
  b.dense(cross_kv);
  for (int layer = 0; layer < c.decoder.layers; ++layer) {
    add_self(b, c, "decoder", layer, decoder_inner, scale.decoder_self(layer));
    add_cross(b, c, layer, decoder_inner, scale.decoder_cross(layer));
    const bool last_norm =
        c.placement == NormPlacement::kPost && !c.final_norm && layer + 1 == c.decoder.layers;
    add_ffn(b, c, "decoder", layer, c.decoder.d_ff, scale.decoder_ffn(layer),
            last_norm ? scale.last_gamma() : 1);
  }
  if (c.final_norm) b.norm("decoder.final_norm", scale.last_gamma());

  if (!c.tied_head) b.table("head.weight", c.vocab, c.d_model, scale.head());
  if (c.head_bias) b.table("head.bias", 1, c.vocab, kHeadBiasDeviation);
  return b.finish();
}

ModelWeights bind_weights(const ModelConfig& c, const WeightLayout& layout, const void* base, DType dtype) {
  const Binder b(layout, base, dtype);
  ModelWeights w;

  bind_stack(b, c, "encoder", w.encoder);
  for (int layer = 0; layer < c.encoder.layers; ++layer) {
    const auto name = [&](std::string_view tensor) { return layer_name("encoder", layer, tensor); };
    w.encoder.layers.push_back({.self_norm = b.norm(name("self_norm")),
                                .self = bind_attention(b, name("self"), true),
                                .ffn_norm = b.norm(name("ffn_norm")),
                                .ffn = bind_ffn(b, name("ffn"))});
  }

  bind_stack(b, c, "decoder", w.decoder);
  for (int layer = 0; layer < c.decoder.layers; ++layer) {
    const auto name = [&](std::string_view tensor) { return layer_name("decoder", layer, tensor); };
    w.decoder.layers.push_back({.self_norm = b.norm(name("self_norm")),
                                .self = bind_attention(b, name("self"), true),
                                .cross_norm = b.norm(name("cross_norm")),
                                .cross = bind_attention(b, name("cross"), false),
                                .ffn_norm = b.norm(name("ffn_norm")),
                                .ffn = bind_ffn(b, name("ffn"))});
  }
  w.decoder.cross_kv = stacked(w.decoder.layers.front().cross.k, 2 * c.decoder.layers);

  w.decoder.head.weight = c.tied_head ? w.decoder.embedding : b.view("head.weight");
  w.decoder.head.bias = b.view("head.bias");
  return w;
}

}  // namespace tandem
