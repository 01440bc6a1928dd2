// Two ways to the same numbers: with and without a K/V cache, together and alone.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "harness/base/error.h"
#include "harness/engine/compare.h"
#include "reference/model/decoder.h"
#include "reference/model/encoder.h"
#include "reference/model/generate.h"
#include "reference/model/test_model.h"

namespace tandem::reference {
namespace {

constexpr double kTolerance = 1e-5;
constexpr int kSteps = 7;

struct Variant {
  ModelConfig config;
  bool ragged = false;
};

/// Every norm with every placement and every position, three times over; the other fields vary across them.
std::vector<Variant> variants() {
  std::vector<Variant> all;
  const uint64_t key = stream_key(1, "variants");
  for (uint32_t i = 0; i < 60; ++i) {
    uint64_t draw = i * 100;
    const auto pick = [&](uint32_t n) { return uniform_below(key, draw++, n); };
    ModelConfig c = small_config();
    c.norm = i % 2 == 0 ? Norm::kLayer : Norm::kRms;
    c.placement = i / 2 % 2 == 0 ? NormPlacement::kPre : NormPlacement::kPost;
    c.position = static_cast<Position>(i / 4 % 5);
    c.position_offset = c.position == Position::kRelative || c.position == Position::kNone ? 0 : pick(3);
    c.sinusoid_spans_end = pick(2) == 1;
    c.relative_buckets = 8;
    c.relative_max_distance = 9;
    c.activation = static_cast<Activation>(i % 6);
    c.gated = pick(2) == 1;
    c.bias = pick(2) == 1;
    c.head_bias = pick(2) == 1;
    c.final_norm = pick(2) == 1;
    c.embedding_norm = pick(2) == 1;
    c.embedding_scale = pick(2) == 1 ? std::sqrt(c.d_model) : 1;
    c.head_scale = pick(2) == 1 ? 1 / std::sqrt(c.d_model) : 1;
    c.shared_embeddings = pick(2) == 1;
    c.tied_head = pick(2) == 1;
    c.name =
        fmt::format("{}_{}_{}_{}{}_{}", norm_name(c.norm), placement_name(c.placement),
                    position_name(c.position), activation_name(c.activation), c.gated ? "_gated" : "", i);
    all.push_back({c, pick(2) == 1});
  }
  return all;
}

class Decoding : public testing::TestWithParam<Variant> {};

// Breaks when a cached key or value is stale, misplaced or read too far, in any of the shapes a config can
// take.
TEST_P(Decoding, CacheEqualsNoCache) {
  const ModelConfig& config = GetParam().config;
  const TestModel model(config, run_seed());
  const std::vector<int32_t> lengths =
      GetParam().ragged ? std::vector<int32_t>{5, 9, 1} : std::vector<int32_t>{9, 9, 9};
  const TransformerBatch source = make_batch(config, lengths, run_seed());
  const std::vector<int32_t> tokens = test_tokens(config, 3, kSteps, run_seed());

  const Matrix cached = forced_logits(config, model.weights(), source, tokens, kSteps);
  const Matrix uncached = forced_logits_uncached(config, model.weights(), source, tokens, kSteps);
  ASSERT_EQ(cached.rows, 3 * kSteps);
  ASSERT_EQ(cached.cols, config.vocab);
  const Comparison c = compare(cached.values, uncached.values, config.vocab);
  EXPECT_TRUE(c.within(kTolerance)) << c.relative_l2 << " " << c.where << " seed " << run_seed();
}

// Breaks when a sequence's result depends on which others are in the batch.
TEST_P(Decoding, PackedEqualsAlone) {
  const ModelConfig& config = GetParam().config;
  const TestModel model(config, run_seed());
  const ModelWeights w = model.weights();
  const TransformerBatch source = make_batch(config, {4, 1, 7}, run_seed());
  const std::vector<std::vector<int32_t>> targets = {{2, 7, 3, 9}, {5, 3}, {1, 2, 3, 4, 5, 6}};
  const Matrix encoded = encoder_forward(config, w.encoder, source);
  const Matrix logits = decoder_full(config, w.decoder, source, encoded, pack(config, targets));

  int64_t target_row = 0;
  for (int b = 0; b < 3; ++b) {
    const std::vector<int32_t> ids(source.ids.begin() + source.offsets[b],
                                   source.ids.begin() + source.offsets[b + 1]);
    const TransformerBatch one = pack(config, {ids});
    const Matrix alone = encoder_forward(config, w.encoder, one);
    const std::span<const float> together(encoded.row(source.offsets[b]), alone.values.size());
    EXPECT_TRUE(compare(together, alone.values, config.d_model).within(kTolerance))
        << "encoder, sequence " << b;

    const Matrix alone_logits = decoder_full(config, w.decoder, one, alone, pack(config, {targets[b]}));
    const std::span<const float> together_logits(logits.row(target_row), alone_logits.values.size());
    EXPECT_TRUE(compare(together_logits, alone_logits.values, config.vocab).within(kTolerance))
        << "decoder, sequence " << b << " seed " << run_seed();
    target_row += static_cast<int64_t>(targets[b].size());
  }
}

INSTANTIATE_TEST_SUITE_P(Configs, Decoding, testing::ValuesIn(variants()),
                         [](const auto& info) { return info.param.config.name; });

struct Quantised {
  Precision precision;
  Numerics numerics;
};

std::vector<Quantised> quantised() {
  std::vector<Quantised> all;
  for (const Precision precision : {Precision::kFp32, Precision::kFp8, Precision::kInt8}) {
    for (const DType kv : {DType::kF32, DType::kF8, DType::kI8}) {
      for (const bool bf16 : {false, true}) all.push_back({precision, {.kv = kv, .bf16_inputs = bf16}});
    }
  }
  return all;
}

// Bit for bit: a row is computed by itself and in one order of sums whatever stands around it, so that no code can turn.
// Breaks when one way quantises a row, a key or a value that the other does not, or a beam takes another's scales.
TEST(Quantised, CacheEqualsNoCacheBitForBit) {
  ModelConfig config = small_config();
  config.gated = true;
  const TransformerBatch source = make_batch(config, {5, 9, 1}, run_seed());
  const std::vector<int32_t> tokens = test_tokens(config, 3, kSteps, run_seed());
  std::vector<std::vector<float>> seen;
  for (const Quantised& q : quantised()) {
    const TestModel model(config, run_seed(), {.precision = q.precision});
    const ModelWeights w = model.weights();
    const Matrix cached = forced_logits(config, w, source, tokens, kSteps, q.numerics);
    EXPECT_EQ(cached.values, forced_logits_uncached(config, w, source, tokens, kSteps, q.numerics).values);
    for (const auto& other : seen) EXPECT_NE(cached.values, other) << "two ways to keep values are one";
    seen.push_back(cached.values);

    // The rows change places after each step, as beams do; their history, scales and all, goes with them.
    DecoderState state =
        start_decoder(config, w.decoder, source, encoder_forward(config, w.encoder, source, q.numerics),
                      kSteps, q.numerics);
    std::vector<int32_t> order = {0, 1, 2};
    for (int step = 0; step < kSteps; ++step) {
      std::vector<int32_t> ids;
      for (const int32_t row : order) ids.push_back(tokens[static_cast<size_t>(row * kSteps + step)]);
      const Matrix logits = decoder_step(config, w.decoder, state, ids);
      for (int r = 0; r < 3; ++r) {
        const std::span<const float> want(cached.row(step * 3 + order[static_cast<size_t>(r)]), config.vocab);
        EXPECT_TRUE(std::ranges::equal(want, std::span(logits.row(r), want.size()))) << "step " << step;
      }
      reorder(state, std::vector<int32_t>{2, 0, 1});
      order = {order[2], order[0], order[1]};
    }
  }
}

// Breaks when a step past the end of the cache writes into the next sequence, or a wrong batch is accepted.
TEST(DecoderState, RefusesWhatDoesNotFit) {
  const ModelConfig config = small_config();
  const TestModel model(config, 0);
  const ModelWeights w = model.weights();
  const TransformerBatch source = make_batch(config, {2, 2}, 0);
  const Matrix encoded = encoder_forward(config, w.encoder, source);
  DecoderState state = start_decoder(config, w.decoder, source, encoded, 1);
  const std::vector<int32_t> ids = {3, 4};
  EXPECT_THROW(decoder_step(config, w.decoder, state, std::vector<int32_t>{3}), Error);
  decoder_step(config, w.decoder, state, ids);
  EXPECT_THROW(decoder_step(config, w.decoder, state, ids), Error);
  EXPECT_THROW(start_decoder(config, w.decoder, make_batch(config, {3, 2}, 0), encoded, 1), Error);
  EXPECT_THROW(decoder_full(config, w.decoder, source, encoded, pack(config, {{1}})), Error);
}

}  // namespace
}  // namespace tandem::reference
