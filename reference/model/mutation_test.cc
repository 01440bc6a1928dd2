// Planted mistakes: each is one that an engine could make, and each must be seen by the comparison that
// judges engines, most of them at a tolerance wide enough for bf16. What is named kFp32 is too small for
// that: only the fp32 run of the same code finds it.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>

#include "harness/engine/compare.h"
#include "reference/model/decoder.h"
#include "reference/model/encoder.h"
#include "reference/model/generate.h"
#include "reference/model/test_model.h"

namespace tandem::reference {
namespace {

constexpr double kFp32 = 1e-4;
constexpr double kWide = 0.02;
constexpr int kPrefix = 5;

ModelConfig mutation_config() {
  ModelConfig c = small_config();
  c.placement = NormPlacement::kPre;
  c.final_norm = true;
  return c;
}

class Mutation : public testing::Test {
 protected:
  Mutation()
      : config(mutation_config()),
        model(config, 3),
        source(make_batch(config, {6, 9, 4}, 3)),
        prefix(test_tokens(config, 3, kPrefix, 3)),
        right(logits(config)) {}

  /// Logits of the step after the prefix, with `spoil` applied to the state just before that step.
  Matrix logits(const ModelConfig& c, const std::function<void(DecoderState&)>& spoil = {}) {
    const ModelWeights w = model.weights();
    const Matrix encoded = encoder_forward(c, w.encoder, source);
    DecoderState state = start_decoder(c, w.decoder, source, encoded, kPrefix + 1);
    for (int t = 0; t < kPrefix; ++t) decoder_step(c, w.decoder, state, ids_at(t));
    if (spoil) spoil(state);
    return decoder_step(c, w.decoder, state, std::vector<int32_t>{7, 8, 9});
  }

  std::vector<int32_t> ids_at(int step) const {
    return {prefix[step], prefix[kPrefix + step], prefix[2 * kPrefix + step]};
  }

  void expect_detected(const Matrix& wrong, double tolerance = kWide) {
    const Comparison c = compare(wrong.values, right.values, config.vocab);
    EXPECT_FALSE(c.within(tolerance)) << c.relative_l2;
    EXPECT_FALSE(c.where.empty());
  }

  ModelConfig config;
  TestModel model;
  TransformerBatch source;
  std::vector<int32_t> prefix;
  Matrix right;
};

// Breaks when nothing at all changes: the detections below would then mean nothing.
TEST_F(Mutation, NoneIsEqual) {
  EXPECT_TRUE(compare(logits(config).values, right.values, config.vocab).within(0));
}

TEST_F(Mutation, CrossMaskOffByOne) {
  for (const int by : {-1, 1}) {
    expect_detected(logits(config, [&](DecoderState& s) { s.source_lengths[0] += by; }));
  }
}

TEST_F(Mutation, SelfMaskOffByOne) {
  // Every sequence forgets its last token but keeps its position count.
  expect_detected(logits(config, [](DecoderState& s) { s.length -= 1; }));
}

TEST_F(Mutation, EncoderMaskOffByOne) {
  TransformerBatch longer = source;
  longer.lengths[0] += 1;  // the first sequence also sees the second's first token
  const ModelWeights w = model.weights();
  const Matrix good = encoder_forward(config, w.encoder, source);
  EXPECT_FALSE(
      compare(encoder_forward(config, w.encoder, longer).values, good.values, config.d_model).within(kWide));
}

TEST_F(Mutation, DroppedHead) {
  // Head 2 of one cross-attention gives nothing: its columns of the output projection are zero.
  const int64_t inner = config.inner(config.decoder);
  const std::span<float> out = model.tensor("decoder.layers.1.cross.out.weight");
  for (int64_t row = 0; row < config.d_model; ++row) {
    for (int64_t i = 0; i < config.head_dim; ++i) out[row * inner + 2 * config.head_dim + i] = 0;
  }
  expect_detected(logits(config));
}

TEST_F(Mutation, WrongAttentionScale) {
  ModelConfig wrong = config;
  wrong.attention_scale = 1;
  expect_detected(logits(wrong));
}

TEST_F(Mutation, WrongHeadScale) {
  ModelConfig wrong = config;
  wrong.head_scale = 1.05;
  expect_detected(logits(wrong));
}

TEST_F(Mutation, StaleKeysAndValues) {
  const auto keep_previous = [](LayerCache& layer, int64_t row) {
    std::copy_n(layer.self_k.row(row - 1), layer.self_k.cols, layer.self_k.row(row));
    std::copy_n(layer.self_v.row(row - 1), layer.self_v.cols, layer.self_v.row(row));
  };
  expect_detected(
      logits(config, [&](DecoderState& s) {  // the last append of sequence 1 was lost in every layer
        for (LayerCache& layer : s.layers) keep_previous(layer, s.capacity + kPrefix - 1);
      }));
  expect_detected(logits(config, [&](DecoderState& s) { keep_previous(s.layers[0], s.capacity + 3); }),
                  kFp32);
  expect_detected(logits(config, [](DecoderState& s) {  // one layer reads another's cross keys
    s.layers[1].cross_k = s.layers[0].cross_k;
  }));
  expect_detected(logits(config, [](DecoderState& s) {  // two sequences swap their values
    Matrix& v = s.layers[2].self_v;
    for (int t = 0; t < kPrefix; ++t) std::swap_ranges(v.row(t), v.row(t) + v.cols, v.row(s.capacity + t));
  }));
}

TEST_F(Mutation, WrongPosition) {
  ModelConfig wrong = config;
  wrong.position_offset = 1;
  expect_detected(logits(wrong));
}

TEST_F(Mutation, GeluInsteadOfItsApproximation) {
  config.activation = Activation::kGelu;
  right = logits(config);
  ModelConfig wrong = config;
  wrong.activation = Activation::kGeluTanh;
  expect_detected(logits(wrong), 1e-5);
}

TEST_F(Mutation, OneNan) {
  expect_detected(logits(config, [](DecoderState& s) {
    s.layers[1].self_v.row(0)[0] = std::numeric_limits<float>::quiet_NaN();
  }));
  Matrix wrong = right;
  wrong.values[2 * config.vocab + 3] = std::numeric_limits<float>::quiet_NaN();
  expect_detected(wrong);
  EXPECT_EQ(compare(wrong.values, right.values, config.vocab).first_nonfinite, 2 * config.vocab + 3);
}

}  // namespace
}  // namespace tandem::reference
