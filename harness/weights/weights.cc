#include "harness/weights/weights.h"

#include <fmt/format.h>

#include <cstddef>
#include <string>
#include <string_view>

namespace tandem {
namespace {

std::string layer_name(std::string_view side, int layer, std::string_view tensor) {
  return fmt::format("{}.layers.{}.{}", side, layer, tensor);
}

// Finds tensors by name and makes views of them.
class Binder {
 public:
  Binder(const WeightLayout& layout, const void* base) : layout_(layout), base_(base) {}

  TensorView view(const std::string& name) const {
    if (!layout_.contains(name)) return {};
    const TensorSpec& spec = layout_.at(name);
    return {address(spec.offset), spec.storage.dtype, spec.rows, spec.storage.stored_cols(spec.cols)};
  }

  NormWeight norm(const std::string& name) const { return {view(name + ".gamma"), view(name + ".beta")}; }
  DenseWeight dense(const std::string& name) const { return dense(name + ".weight", name + ".bias"); }
  DenseWeight dense(const std::string& weight, const std::string& bias) const {
    DenseWeight w{.weight = view(weight), .bias = view(bias)};
    if (w.weight.empty()) return w;
    const TensorSpec& spec = layout_.at(weight);
    const Storage& storage = spec.storage;
    if (storage.scale_group != 0)
      w.scales = {address(spec.scale_offset), storage.scale_dtype, spec.rows,
                  storage.scales_per_row(spec.cols)};
    w.two_of_four = storage.two_of_four;
    if (w.two_of_four) w.metadata = address(spec.metadata_offset);
    if (storage.bitmap) {
      w.weight.data = address(spec.group_offset);
      w.bitmap = address(spec.bitmap_offset);
      w.row_starts = static_cast<const uint32_t*>(address(spec.starts_offset));
    }
    if (quantises_activations(layout_.form)) {
      const DType own = own_storage(layout_.form, spec.use).dtype;
      if (dtype_bits(own) == 8) w.input_dtype = own;
    }
    return w;
  }

 private:
  const void* address(int64_t offset) const { return static_cast<const std::byte*>(base_) + offset; }

  const WeightLayout& layout_;
  const void* base_;
};

// `count` equal matrices that lie back to back from `first`, as one; their scales and biases too.
DenseWeight stacked(const DenseWeight& first, int64_t count) {
  DenseWeight all = first;
  all.weight.rows *= count;
  all.scales.rows *= count;
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

ModelWeights bind_weights(const WeightLayout& layout, const void* base) {
  const ModelConfig& c = layout.config;
  const Binder b(layout, base);
  ModelWeights w;

  bind_stack(b, c, "encoder", w.encoder);
  for (int layer = 0; layer < c.encoder.layers; ++layer) {
    const auto name = [&](std::string_view tensor) { return layer_name("encoder", layer, tensor); };
    w.encoder.layers.push_back({.self_norm = b.norm(name("self_norm")),
                                .relative_bias = b.view(name("relative_bias")),
                                .self = bind_attention(b, name("self"), true),
                                .ffn_norm = b.norm(name("ffn_norm")),
                                .ffn = bind_ffn(b, name("ffn"))});
  }

  bind_stack(b, c, "decoder", w.decoder);
  for (int layer = 0; layer < c.decoder.layers; ++layer) {
    const auto name = [&](std::string_view tensor) { return layer_name("decoder", layer, tensor); };
    w.decoder.layers.push_back({.self_norm = b.norm(name("self_norm")),
                                .relative_bias = b.view(name("relative_bias")),
                                .self = bind_attention(b, name("self"), true),
                                .cross_norm = b.norm(name("cross_norm")),
                                .cross = bind_attention(b, name("cross"), false),
                                .ffn_norm = b.norm(name("ffn_norm")),
                                .ffn = bind_ffn(b, name("ffn"))});
  }
  w.decoder.cross_kv = stacked(w.decoder.layers.front().cross.k, 2 * c.decoder.layers);

  const std::string embedding = c.shared_embeddings ? "shared.embedding" : "decoder.embedding";
  w.decoder.head = b.dense(layout.contains("head.weight") ? "head.weight" : embedding, "head.bias");
  return w;
}

}  // namespace tandem
