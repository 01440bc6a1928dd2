#include "harness/weights/weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>

#include "harness/base/error.h"

namespace tandem {
namespace {

// A small model of every kind: T5's inner width, BART's tables, gated, untied, unshared.
std::vector<ModelConfig> kinds() {
  std::vector<ModelConfig> all;
  for (const char* name : {"tiny", "bart-base", "t5-small", "flan-t5-base", "m2m100-418m"}) {
    ModelConfig c = preset(name);
    c.d_model = 40;
    c.head_dim = 12;
    c.encoder = {.layers = 2, .heads = 3, .d_ff = 56};
    c.decoder = {.layers = 3, .heads = 2, .d_ff = 72};
    c.vocab = 101;
    c.max_positions = 33;
    all.push_back(c);
  }
  all.push_back(all.front());
  all.back().shared_embeddings = false;
  all.back().tied_head = false;
  return all;
}

int64_t offset_of(const TensorView& view) {
  return reinterpret_cast<intptr_t>(view.data) / 4;
}

// Binds over an arena that starts at address 4096, so that addresses are offsets (nothing is read).
struct Bound {
  explicit Bound(const ModelConfig& c)
      : layout(weight_layout(c)), weights(bind_weights(layout, reinterpret_cast<const void*>(kStart * 4))) {}
  static constexpr intptr_t kStart = 1024;
  int64_t at(const std::string& name) const { return kStart + layout.at(name).offset / 4; }
  WeightLayout layout;
  ModelWeights weights;
};

// A name that is not there must not be taken for a tensor without values.
TEST(WeightLayout, TensorsAreFoundByName) {
  for (const ModelConfig& c : kinds()) {
    const WeightLayout layout = weight_layout(c);
    for (const TensorSpec& t : layout.tensors) EXPECT_EQ(&layout.at(t.name), &t);
    for (const char* first : {"encoder.layers.1.self.q.weight", "encoder.layers.0.self.out.weight",
                              "decoder.layers.0.cross.k.weight", "decoder.layers.2.cross.q.weight",
                              "decoder.layers.1.ffn.down.weight", "decoder.layers.1.ffn_norm.gamma"}) {
      EXPECT_EQ(layout.at(first).offset % (128 * 4), 0) << first;
    }
    EXPECT_THROW(layout.at("encoder.layers.9.self.q.weight"), std::out_of_range);
  }
}

// Fused projections would multiply with the wrong rows.
TEST(BindWeights, FusedMatricesAreTheirPartsInOrder) {
  for (const ModelConfig& c : kinds()) {
    const Bound b(c);
    const int64_t d = c.d_model;
    const int64_t inner = c.inner(c.decoder);
    for (int l = 0; l < c.decoder.layers; ++l) {
      const DecoderLayerWeight& w = b.weights.decoder.layers[l];
      const std::string name = "decoder.layers." + std::to_string(l);
      EXPECT_EQ(w.self.qkv.weight.rows, 3 * inner);
      EXPECT_EQ(w.self.qkv.weight.cols, d);
      EXPECT_EQ(offset_of(w.self.qkv.weight), b.at(name + ".self.q.weight"));
      EXPECT_EQ(offset_of(w.self.k.weight), offset_of(w.self.q.weight) + inner * d);
      EXPECT_EQ(offset_of(w.self.v.weight), offset_of(w.self.k.weight) + inner * d);
      EXPECT_EQ(w.self.kv.weight.data, w.self.k.weight.data);
      EXPECT_TRUE(w.cross.qkv.weight.empty());
      EXPECT_EQ(w.cross.kv.weight.rows, 2 * inner);
      EXPECT_EQ(offset_of(w.cross.k.weight),
                offset_of(b.weights.decoder.cross_kv.weight) + 2 * l * inner * d);
      EXPECT_EQ(offset_of(w.cross.v.weight), offset_of(w.cross.k.weight) + inner * d);
      if (c.bias) {
        EXPECT_EQ(w.self.qkv.bias.cols, 3 * inner);
        EXPECT_EQ(offset_of(w.self.k.bias), offset_of(w.self.q.bias) + inner);
        EXPECT_EQ(offset_of(w.cross.k.bias), offset_of(b.weights.decoder.cross_kv.bias) + 2 * l * inner);
        EXPECT_EQ(offset_of(w.cross.v.bias), offset_of(w.cross.k.bias) + inner);
      }
      if (c.gated) {
        EXPECT_EQ(w.ffn.gate_up.weight.rows, 2 * c.decoder.d_ff);
        EXPECT_EQ(w.ffn.gate_up.weight.data, w.ffn.gate.weight.data);
        EXPECT_EQ(offset_of(w.ffn.up.weight), offset_of(w.ffn.gate.weight) + c.decoder.d_ff * d);
      } else {
        EXPECT_TRUE(w.ffn.gate.weight.empty() && w.ffn.gate_up.weight.empty());
      }
      EXPECT_EQ(w.self.out.weight.rows, d);
      EXPECT_EQ(w.self.out.weight.cols, inner);
      EXPECT_EQ(w.ffn.down.weight.cols, c.decoder.d_ff);
    }
    const DenseWeight& all = b.weights.decoder.cross_kv;
    EXPECT_EQ(all.weight.rows, 2 * c.decoder.layers * inner);
    EXPECT_EQ(all.bias.cols, c.bias ? 2 * c.decoder.layers * inner : 0);
    EXPECT_EQ(b.weights.encoder.layers[1].self.q.weight.rows, c.inner(c.encoder));
  }
}

// An engine would take a part that the model does not have, or miss one that it has.
TEST(BindWeights, WhatIsThereAndWhatIsNot) {
  for (const ModelConfig& c : kinds()) {
    SCOPED_TRACE(c.name);
    const Bound b(c);
    const DecoderWeight& w = b.weights.decoder;
    EXPECT_EQ(w.embedding.data == b.weights.encoder.embedding.data, c.shared_embeddings);
    EXPECT_EQ(w.head.weight.data == w.embedding.data, c.tied_head);
    EXPECT_EQ(w.head.weight.rows, c.vocab);
    EXPECT_EQ(w.head.bias.cols, c.head_bias ? c.vocab : 0);
    EXPECT_EQ(w.final_norm.gamma.empty(), !c.final_norm);
    EXPECT_EQ(w.embedding_norm.gamma.empty(), !c.embedding_norm);
    EXPECT_EQ(w.position.rows, c.position == Position::kLearned ? c.position_offset + c.max_positions : 0);
    EXPECT_EQ(w.relative_bias.rows, c.position == Position::kRelative ? c.relative_buckets : 0);
    EXPECT_EQ(w.relative_bias.cols, c.position == Position::kRelative ? c.decoder.heads : 0);
    EXPECT_EQ(w.layers[0].self_norm.beta.empty(), c.norm == Norm::kRms);
    EXPECT_EQ(w.layers[0].self.out.bias.empty(), !c.bias);
  }
}

// Every tensor must be reachable through a view, or an engine would compute without it.
// Breaks when a product of fp8 or int8 would take its rows unquantised, or one of a weight-only precision would not; when the
// same values held in fp32 would compute another product.
TEST(BindWeights, ProductsKnowWhatTheirRowsAreQuantisedTo) {
  const auto bound = [](const WeightForm& form) {
    static std::vector<WeightLayout> layouts;
    layouts.push_back(weight_layout(preset("tiny"), form));
    return bind_weights(layouts.back(), reinterpret_cast<const void*>(4096));
  };
  const WeightForm fp8{.precision = Precision::kFp8};
  WeightForm wide_head = fp8;
  wide_head.head = HeadStorage::k16Bit;
  for (const WeightForm& form : {fp8, fp8.in_fp32()}) {
    EXPECT_EQ(bound(form).encoder.layers[0].self.qkv.input_dtype, DType::kF8);
    EXPECT_EQ(bound(form).decoder.cross_kv.input_dtype, DType::kF8);
    EXPECT_EQ(bound(form).decoder.head.input_dtype, DType::kF8);
  }
  EXPECT_EQ(bound(wide_head).decoder.head.input_dtype, std::nullopt);
  EXPECT_EQ(bound({.precision = Precision::kInt8}).decoder.layers[1].ffn.down.input_dtype, DType::kI8);
  for (const Precision p : {Precision::kBf16, Precision::kW8a16, Precision::kW4a16})
    EXPECT_EQ(bound({.precision = p}).decoder.layers[1].ffn.down.input_dtype, std::nullopt);
}

TEST(BindWeights, EveryTensorIsInAView) {
  for (const ModelConfig& c : kinds()) {
    const Bound b(c);
    std::vector<std::pair<int64_t, int64_t>> seen;  // offset, size
    const auto take = [&](const TensorView& v) {
      if (!v.empty()) seen.emplace_back(offset_of(v) - Bound::kStart, v.size());
    };
    const auto dense = [&](const DenseWeight& w) { take(w.weight), take(w.bias); };
    const auto norm = [&](const NormWeight& w) { take(w.gamma), take(w.beta); };
    const auto attention = [&](const AttentionWeight& w) {
      dense(w.q), dense(w.k), dense(w.v), dense(w.out);
    };
    const auto ffn = [&](const FfnWeight& w) { dense(w.gate), dense(w.up), dense(w.down); };
    const auto stack = [&](const StackWeight& w) {
      take(w.embedding), take(w.position), take(w.relative_bias), norm(w.embedding_norm), norm(w.final_norm);
    };
    stack(b.weights.encoder);
    for (const auto& l : b.weights.encoder.layers)
      norm(l.self_norm), attention(l.self), norm(l.ffn_norm), ffn(l.ffn);
    stack(b.weights.decoder);
    for (const auto& l : b.weights.decoder.layers) {
      norm(l.self_norm), attention(l.self), norm(l.cross_norm), attention(l.cross), norm(l.ffn_norm),
          ffn(l.ffn);
    }
    dense(b.weights.decoder.head);
    for (const TensorSpec& t : b.layout.tensors) {
      EXPECT_EQ(std::count(seen.begin(), seen.end(), std::pair(t.offset / 4, t.size())) > 0, true)
          << c.name << " " << t.name;
    }
  }
}

// A wrong configuration must not become a layout.
TEST(WeightLayout, ChecksTheConfiguration) {
  ModelConfig c = preset("tiny");
  c.vocab = 0;
  EXPECT_THROW(weight_layout(c), UsageError);
}

// A preset would measure another model than its name says. Parameters (tied and shared tables once, biases, norms) as
// counted from the published shapes.
TEST(Presets, PublishedParameterCounts) {
  const auto parameters = [](const char* name) {
    int64_t sum = 0;
    for (const TensorSpec& t : weight_layout(preset(name)).tensors) sum += t.size();
    return sum;
  };
  // Transformers' own counts of the checkpoints; BART's and Marian's position and logits-bias buffers as they store them.
  EXPECT_EQ(parameters("t5-small"), 60506624);
  EXPECT_EQ(parameters("t5-base"), 222903552);
  EXPECT_EQ(parameters("t5-large"), 737668096);
  EXPECT_EQ(parameters("t5-3b"), 2851598336);
  EXPECT_EQ(parameters("flan-t5-base"), 247577856);
  EXPECT_EQ(parameters("flan-t5-xl"), 2849757184);
  EXPECT_EQ(parameters("bart-base"), 139420416 + 50265);
  EXPECT_EQ(parameters("bart-large"), 406291456 + 50265);
  EXPECT_EQ(parameters("m2m100-418m"), 483905536);
  EXPECT_EQ(parameters("nllb-600m"), 615073792);
  EXPECT_EQ(parameters("nllb-1.3b"), 1370638336);
  EXPECT_EQ(parameters("nllb-3.3b"), 3344863232);
}

}  // namespace
}  // namespace tandem
