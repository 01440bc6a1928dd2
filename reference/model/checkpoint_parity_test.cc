// Checkpoints of every family, read and decoded as transformers does it.
#include <gtest/gtest.h>

#include <map>
#include <memory>

#include "harness/engine/compare.h"
#include "harness/weights/materialise.h"
#include "harness/weights/testing/checkpoint_writer.h"
#include "harness/weights/values/checkpoint.h"
#include "reference/model/decode.h"
#include "reference/model/decoder.h"
#include "reference/model/encoder.h"
#include "reference/model/generate.h"

namespace tandem::reference {
namespace {

using nlohmann::json;

constexpr double kTolerance = 5e-6;  // transformers' own rounding; sharp softmaxes make it up to 3e-6

/// A variant's folder, read; made once.
struct Loaded {
  json fixture;
  ModelConfig config;
  GenerationConfig generation;
  HostWeights host;
  std::vector<std::vector<int32_t>> sources;

  explicit Loaded(const std::string& variant) : fixture(testing::checkpoint_fixture(variant)) {
    const testing::TestFolder folder;
    testing::write_checkpoint(folder.path(), fixture);
    const Checkpoint checkpoint(folder.path().string());
    config = checkpoint.config();
    generation = checkpoint.generation();
    generation.max_length = fixture["new_tokens"].get<int>() + 1;
    host = host_weights(config, checkpoint);
    sources = testing::fixture_sources(variant, fixture);
    for (const int i : fixture["undecided"]) undecided.insert(i);
  }
  ModelWeights weights() const { return host.weights(); }

  std::set<int> undecided;
};

const Loaded& loaded(const std::string& variant) {
  static std::map<std::string, std::unique_ptr<Loaded>> all;
  auto& one = all[variant];
  if (!one) one = std::make_unique<Loaded>(variant);
  return *one;
}

class CheckpointParity : public ::testing::TestWithParam<std::string> {};

// Breaks when a checkpoint's config or tensors are read as another model.
TEST_P(CheckpointParity, EncoderAndLogits) {
  const Loaded& m = loaded(GetParam());
  const ModelWeights w = m.weights();
  ASSERT_EQ(m.fixture["forced"].size(), 3u);
  for (const json& forced : m.fixture["forced"]) {
    const TransformerBatch source = pack(m.config, {forced["source"].get<std::vector<int32_t>>()});
    const TransformerBatch target = pack(m.config, {forced["target"].get<std::vector<int32_t>>()});
    const Matrix encoded = encoder_forward(m.config, w.encoder, source);
    const auto want_encoded = forced["encoder_output"].get<std::vector<float>>();
    const Comparison encoder = compare(encoded.values, want_encoded, m.config.d_model);
    EXPECT_TRUE(encoder.within(kTolerance)) << encoder.relative_l2 << " " << encoder.where;
    const Matrix logits = decoder_full(m.config, w.decoder, source, encoded, target);
    const auto want_logits = forced["logits"].get<std::vector<float>>();
    const Comparison decoder = compare(logits.values, want_logits, m.config.vocab);
    EXPECT_TRUE(decoder.within(kTolerance)) << decoder.relative_l2 << " " << decoder.where;
  }
}

// Breaks when any token, or any score of a beam, is not transformers'.
void expect_tokens(const Loaded& m, int beams) {
  const ModelWeights w = m.weights();
  GenerationConfig g = m.generation;
  g.beams = beams;
  size_t checked = 0;
  for (size_t i = 0; i < m.sources.size(); ++i) {
    if (m.undecided.contains(static_cast<int>(i))) continue;
    const Hypothesis best = decode(m.config, w, pack(m.config, {m.sources[i]}), g).front().front();
    const json& want = beams == 1 ? m.fixture["greedy"][i] : m.fixture["beam"][i][1];
    EXPECT_EQ(best.tokens, want.get<std::vector<int32_t>>()) << "sequence " << i;
    if (beams > 1) {
      const double score = m.fixture["beam"][i][0];
      EXPECT_NEAR(best.score, score, 2e-5 * std::max(1.0, std::abs(score))) << "sequence " << i;
    }
    ++checked;
  }
  EXPECT_GE(checked, m.sources.size() * 9 / 10);
}

TEST_P(CheckpointParity, GreedyTokens) {
  expect_tokens(loaded(GetParam()), 1);
}
TEST_P(CheckpointParity, BeamTokens) {
  expect_tokens(loaded(GetParam()), loaded(GetParam()).fixture["beams"]);
}

// Breaks when a sequence's tokens depend on what else is in the batch.
TEST_P(CheckpointParity, AloneAndInABatch) {
  const Loaded& m = loaded(GetParam());
  const ModelWeights w = m.weights();
  const std::vector<std::vector<int32_t>> some(m.sources.begin() + 1, m.sources.begin() + 17);
  GenerationConfig g = m.generation;
  g.max_length = 12;
  g.sample = true;
  std::vector<uint64_t> seeds(some.size());
  for (size_t i = 0; i < seeds.size(); ++i) seeds[i] = 7 * i;
  const auto together = decode(m.config, w, pack(m.config, some), g, seeds);
  const Generated batched =
      greedy_generate(m.config, w, pack(m.config, some), {.max_tokens = 12, .stop_at_eos = true});
  for (size_t i = 0; i < some.size(); ++i) {
    const TransformerBatch one = pack(m.config, {some[i]});
    EXPECT_EQ(decode(m.config, w, one, g, std::span(&seeds[i], 1)).front().front().tokens,
              together[i].front().tokens);
    const Generated alone = greedy_generate(m.config, w, one, {.max_tokens = 12, .stop_at_eos = true});
    EXPECT_TRUE(std::equal(alone.tokens.begin(), alone.tokens.end(), batched.tokens.begin() + i * 12));
  }
}

INSTANTIATE_TEST_SUITE_P(All, CheckpointParity, ::testing::ValuesIn(testing::checkpoint_variants()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tandem::reference
