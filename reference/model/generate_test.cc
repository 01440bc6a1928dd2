#include "reference/model/generate.h"

#include <gtest/gtest.h>

#include "harness/base/error.h"
#include "harness/engine/compare.h"
#include "reference/model/test_model.h"
#include "reference/ops/head.h"

namespace tandem::reference {
namespace {

// Breaks when a step is fed anything else than the token before it, or the first anything else than the
// start.
TEST(Greedy, TokensAreTheArgMaxOfForcedLogits) {
  constexpr int kSteps = 9, kBatch = 3;
  const ModelConfig config = small_config();
  const TestModel model(config, run_seed());
  const TransformerBatch source = make_batch(config, {3, 6, 1}, run_seed());
  const Generated out = greedy_generate(config, model.weights(), source,
                                        {.max_tokens = kSteps, .stop_at_eos = false, .keep_logits = true});
  EXPECT_EQ(out.lengths, std::vector<int32_t>(kBatch, kSteps));

  std::vector<int32_t> inputs(kBatch * kSteps);
  for (int b = 0; b < kBatch; ++b) {
    inputs[b * kSteps] = config.decoder_start_id;
    for (int t = 1; t < kSteps; ++t) inputs[b * kSteps + t] = out.tokens[b * kSteps + t - 1];
  }
  const Matrix forced = forced_logits_uncached(config, model.weights(), source, inputs, kSteps);
  EXPECT_TRUE(compare(out.logits.values, forced.values, config.vocab).within(1e-5)) << "seed " << run_seed();
  const std::vector<int32_t> best = arg_max(out.logits);
  for (int b = 0; b < kBatch; ++b) {
    for (int t = 0; t < kSteps; ++t) EXPECT_EQ(out.tokens[b * kSteps + t], best[t * kBatch + b]);
  }
}

// Breaks when eos does not end a sequence, is dropped from it, or ends one that must run its full length.
TEST(Greedy, EosEndsASequence) {
  ModelConfig config = small_config();
  config.head_bias = true;
  config.pad_id = 7;
  TestModel model(config, run_seed());
  model.tensor("head.bias")[config.eos_id] = 1e6f;
  const TransformerBatch source = make_batch(config, {3, 2}, run_seed());

  const Generated stopped = greedy_generate(config, model.weights(), source,
                                            {.max_tokens = 4, .stop_at_eos = true, .keep_logits = false});
  EXPECT_EQ(stopped.lengths, (std::vector<int32_t>{1, 1}));
  EXPECT_EQ(stopped.tokens, (std::vector<int32_t>{1, 7, 7, 7, 1, 7, 7, 7}));

  const Generated fixed = greedy_generate(config, model.weights(), source,
                                          {.max_tokens = 4, .stop_at_eos = false, .keep_logits = false});
  EXPECT_EQ(fixed.lengths, (std::vector<int32_t>{4, 4}));
  EXPECT_EQ(fixed.tokens, std::vector<int32_t>(8, config.eos_id));
}

// Breaks when a sequence that goes on is disturbed by one that has ended.
TEST(Greedy, AFinishedSequenceLeavesTheOthersAlone) {
  constexpr int kSteps = 12;
  ModelConfig config = small_config();
  config.pad_id = 7;
  const TestModel plain(config, run_seed());
  const TransformerBatch source = make_batch(config, {5, 4, 6, 2}, run_seed());
  const GreedyOptions fixed{.max_tokens = kSteps, .stop_at_eos = false, .keep_logits = false};
  const Generated free = greedy_generate(config, plain.weights(), source, fixed);
  // Declare a token of the first sequence to be eos: it ends there, the others where they first have it.
  config.eos_id = free.tokens[kSteps / 2];
  const Generated stopped = greedy_generate(
      config, plain.weights(), source, {.max_tokens = kSteps, .stop_at_eos = true, .keep_logits = false});
  for (int b = 0; b < source.size(); ++b) {
    bool ended = false;
    for (int t = 0; t < kSteps; ++t) {
      const int32_t expected = ended ? config.pad_id : free.tokens[b * kSteps + t];
      EXPECT_EQ(stopped.tokens[b * kSteps + t], expected)
          << "sequence " << b << " step " << t << " seed " << run_seed();
      ended = ended || expected == config.eos_id;
    }
  }
  EXPECT_LE(stopped.lengths[0], kSteps / 2 + 1);
}

// Breaks when tokens of another shape are read beyond their end.
TEST(Forced, RefusesWrongSizes) {
  const ModelConfig config = small_config();
  const TestModel model(config, 0);
  const TransformerBatch source = make_batch(config, {3, 2}, 0);
  EXPECT_THROW(forced_logits(config, model.weights(), source, std::vector<int32_t>{0, 1, 2}, 2), Error);
  EXPECT_THROW(forced_logits_uncached(config, model.weights(), source, {}, 0), Error);
}

}  // namespace
}  // namespace tandem::reference
