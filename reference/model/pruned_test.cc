// Structured pruning against dense models built without what was removed.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "harness/weights/pruning/prune.h"
#include "harness/weights/values/seeded.h"
#include "reference/model/encoder.h"
#include "reference/model/generate.h"
#include "reference/model/test_model.h"

namespace tandem::reference {
namespace {

constexpr int kSteps = 4;

struct Computed {
  std::vector<float> encoder, logits;
  bool operator==(const Computed&) const = default;
};

Computed compute(const ModelConfig& config, const ModelWeights& weights) {
  const TransformerBatch batch = make_batch(config, std::vector<int32_t>{5, 1, 7}, 3);
  const auto tokens = test_tokens(config, batch.size(), kSteps, 4);
  return {.encoder = encoder_forward(config, weights.encoder, batch, {}).values,
          .logits = forced_logits(config, weights, batch, tokens, kSteps, {}).values};
}

ModelConfig model(Position position, bool gated) {
  ModelConfig c = small_config();
  c.encoder.heads = 4;
  c.encoder.layers = 4;
  c.position = position;
  c.relative_buckets = 8;
  c.relative_max_distance = 20;
  c.gated = gated;
  return c;
}

/// Which rows or columns of a dense tensor a part of it is.
std::vector<int> units(const std::vector<int>& kept, int of, int width) {
  std::vector<int> all;
  for (int i = 0; i < of; ++i) {
    if (!kept.empty() && std::ranges::find(kept, i) == kept.end()) continue;
    for (int j = 0; j < width; ++j) all.push_back(i * width + j);
  }
  return all;
}

/// The dense model without what was removed, copied tensor by tensor.
HostWeights built_without(const ModelConfig& dense_config, const HostWeights& dense, const Kept& kept,
                          const ModelConfig& smaller) {
  HostWeights built = empty_host_weights(smaller);
  for (const TensorSpec& t : built.layout.tensors) {
    std::string from = t.name;
    std::vector<int> rows(static_cast<size_t>(t.rows)), cols(static_cast<size_t>(t.cols));
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int>(i);
    for (size_t i = 0; i < cols.size(); ++i) cols[i] = static_cast<int>(i);
    const bool encoder = t.name.starts_with("encoder.");
    const std::string layers = encoder ? "encoder.layers." : "decoder.layers.";
    if (t.name.starts_with(layers)) {
      const KeptStack& k = encoder ? kept.encoder : kept.decoder;
      const StackConfig& stack = encoder ? dense_config.encoder : dense_config.decoder;
      const size_t dot = t.name.find('.', layers.size());
      const int layer = std::stoi(t.name.substr(layers.size(), dot - layers.size()));
      const std::string rest = t.name.substr(dot);
      from = layers + std::to_string(k.layers.empty() ? layer : k.layers[static_cast<size_t>(layer)]) + rest;
      const auto list = [&](const std::vector<std::vector<int>>& lists) {
        return lists.empty() ? std::vector<int>() : lists[static_cast<size_t>(layer)];
      };
      const bool bias = rest.ends_with(".bias");
      const auto cut = [&](std::vector<int> kept_units, bool output) {
        if (output || bias) {
          (bias ? cols : rows) = std::move(kept_units);
        } else {
          cols = std::move(kept_units);
        }
      };
      const bool out = rest.find(".out.") != std::string::npos,
                 down = rest.find(".down.") != std::string::npos;
      if (rest.find("norm") == std::string::npos && !(bias && (out || down))) {
        if (rest.starts_with(".self."))
          cut(units(list(k.self_heads), stack.heads, dense_config.head_dim), !out);
        if (rest.starts_with(".cross."))
          cut(units(list(k.cross_heads), stack.heads, dense_config.head_dim), !out);
        if (rest.starts_with(".ffn.")) cut(units(list(k.ffn), stack.d_ff, 1), !down);
      }
    }
    const auto values = dense.tensor(from);
    const int64_t width = dense.layout.at(from).cols;
    auto to = built.tensor(t.name).begin();
    for (const int r : rows) {
      for (const int c : cols) *to++ = values[static_cast<size_t>(r * width + c)];
    }
  }
  return built;
}

// The bar of the axis: removing heads, columns of FFNs or layers gives the very numbers of a dense model that never had them.
TEST(Pruned, EqualsADenseModelBuiltWithoutWhatWasRemoved) {
  for (const bool gated : {false, true}) {
    const ModelConfig c = model(Position::kSinusoidal, gated);
    const SeededSource source({.seed = run_seed()});
    const HostWeights dense = host_weights(c, source);
    for (const SparsitySpec& sparsity :
         {SparsitySpec{.heads = 0.5}, SparsitySpec{.ffn = 0.4}, SparsitySpec{.layers = 0.5},
          SparsitySpec{.heads = 0.25, .ffn = 0.7, .layers = 0.3}}) {
      const Pruning pruning = prune(source, c, {.sparsity = sparsity});
      const HostWeights pruned = host_weights(c, source, {.sparsity = sparsity});
      const ModelConfig smaller = smaller_config(c, sparsity);
      const HostWeights built = built_without(c, dense, pruning.kept, smaller);
      EXPECT_TRUE(compute(pruned.config(), pruned.weights()) == compute(smaller, built.weights()))
          << sparsity_text(sparsity);
      EXPECT_FALSE(compute(pruned.config(), pruned.weights()) == compute(c, dense.weights()));
    }
  }
}

// The same where each layer is left with other columns of the table of relative positions: in the dense model the removed heads
// and columns give nothing to the rows that follow them.
TEST(Pruned, EqualsTheDenseModelWithTheSamePartsSilent) {
  const ModelConfig c = model(Position::kRelative, true);
  const SeededSource source({.seed = run_seed()});
  const SparsitySpec sparsity{.heads = 0.5, .ffn = 0.5};
  const Pruning pruning = prune(source, c, {.sparsity = sparsity});
  HostWeights silent = host_weights(c, source);
  const auto mute = [&](const std::string& name, const std::vector<int>& kept, int width) {
    const int64_t cols = silent.layout.at(name).cols;
    const auto values = silent.tensor(name);
    for (size_t i = 0; i < values.size(); ++i) {
      const int unit = static_cast<int>(static_cast<int64_t>(i) % cols) / width;
      if (std::ranges::find(kept, unit) == kept.end()) values[i] = 0;
    }
  };
  for (const bool encoder : {true, false}) {
    const KeptStack& k = encoder ? pruning.kept.encoder : pruning.kept.decoder;
    for (size_t layer = 0; layer < k.ffn.size(); ++layer) {
      const std::string prefix = (encoder ? "encoder.layers." : "decoder.layers.") + std::to_string(layer);
      mute(prefix + ".self.out.weight", k.self_heads[layer], c.head_dim);
      if (!encoder) mute(prefix + ".cross.out.weight", k.cross_heads[layer], c.head_dim);
      mute(prefix + ".ffn.down.weight", k.ffn[layer], 1);
    }
  }
  const HostWeights pruned = host_weights(c, source, {.sparsity = sparsity});
  EXPECT_TRUE(compute(pruned.config(), pruned.weights()) == compute(c, silent.weights()));
}

}  // namespace
}  // namespace tandem::reference
