#include "reference/model/logits.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tandem::reference {
namespace {

using Ids = std::vector<int32_t>;

std::vector<float> processed(const GenerationConfig& g, const Ids& tokens, std::vector<float> scores) {
  process(g, tokens, scores);
  return scores;
}
/// Ids whose score is kNever.
Ids never(const std::vector<float>& scores) {
  Ids ids;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] == kNever) ids.push_back(static_cast<int32_t>(i));
  }
  return ids;
}
GenerationConfig plain() {
  GenerationConfig g;
  g.eos_ids = {1};
  g.max_length = 6;
  return g;
}
const std::vector<float> kScores = {0.5f, -1, 2, 0, -3, 1};

// Breaks when large scores overflow, or the sum is not one.
TEST(Logits, LogSoftmax) {
  const std::vector<float> out = log_softmax(std::vector<float>{1000, 1000, -1000});
  EXPECT_FLOAT_EQ(out[0], -std::log(2.0f));
  EXPECT_FLOAT_EQ(out[2], -2000 - std::log(2.0f));
}

// Breaks when a configuration without settings changes a score.
TEST(Logits, NothingAskedNothingDone) {
  EXPECT_EQ(processed(plain(), {0, 2, 2}, kScores), kScores);
}

// Breaks when a token that came twice is penalised twice, or a negative score gets likelier.
TEST(Logits, RepetitionPenalty) {
  GenerationConfig g = plain();
  g.repetition_penalty = 2;
  EXPECT_EQ(processed(g, {2, 4, 2}, kScores), (std::vector<float>{0.5f, -1, 1, 0, -6, 1}));
}

// Breaks when other n-grams than those that have come are forbidden.
TEST(Logits, NoRepeatedNgrams) {
  GenerationConfig g = plain();
  g.no_repeat_ngram = 2;
  EXPECT_EQ(never(processed(g, {0, 2, 3, 2, 5, 2}, kScores)), (Ids{3, 5}));
  EXPECT_EQ(never(processed(g, {2}, kScores)), Ids{});
  g.no_repeat_ngram = 1;
  EXPECT_EQ(never(processed(g, {0, 2}, kScores)), (Ids{0, 2}));
  g.no_repeat_ngram = 3;
  EXPECT_EQ(never(processed(g, {2, 3, 4, 2, 3}, kScores)), Ids{4});
}

// Breaks when a bad word is forbidden too early, or eos as a bad word ends all ends.
TEST(Logits, BadWords) {
  GenerationConfig g = plain();
  g.bad_words = {{1}, {4}, {2, 3}, {2, 2, 5}};
  EXPECT_EQ(never(processed(g, {0}, kScores)), Ids{4});
  EXPECT_EQ(never(processed(g, {0, 2}, kScores)), (Ids{3, 4}));
  EXPECT_EQ(never(processed(g, {2, 2}, kScores)), (Ids{3, 4, 5}));
}

// Breaks when lengths are counted without the decoder's start.
TEST(Logits, LengthsAndForcedTokens) {
  GenerationConfig g = plain();
  g.min_length = 3;
  EXPECT_EQ(never(processed(g, {0, 2}, kScores)), Ids{1});
  EXPECT_EQ(never(processed(g, {0, 2, 2}, kScores)), Ids{});
  g.forced_bos_id = 3;
  g.forced_eos_ids = {1, 2};
  EXPECT_EQ(never(processed(g, {0}, kScores)), (Ids{0, 1, 2, 4, 5}));
  EXPECT_EQ(processed(g, {0}, kScores)[3], 0);
  EXPECT_EQ(never(processed(g, {0, 3, 2, 2, 2}, kScores)), (Ids{0, 3, 4, 5}));
  EXPECT_EQ(never(processed(g, {0, 3, 2, 2}, kScores)), Ids{});
}

// Breaks when the first free token is not the one after a forced one.
TEST(Logits, SuppressedTokens) {
  GenerationConfig g = plain();
  g.suppressed = {5};
  g.suppressed_at_start = {2};
  EXPECT_EQ(never(processed(g, {0}, kScores)), (Ids{2, 5}));
  EXPECT_EQ(never(processed(g, {0, 3}, kScores)), Ids{5});
  g.forced_bos_id = 3;
  EXPECT_EQ(never(processed(g, {0, 3}, kScores)), (Ids{2, 5}));
}

// Breaks when what is forbidden keeps its share of probability (Marian's checkpoints ask for this).
TEST(Logits, Renormalise) {
  GenerationConfig g = plain();
  g.suppressed = {0, 1, 3, 4};
  g.renormalise = true;
  const std::vector<float> out = processed(g, {0}, kScores);
  EXPECT_NEAR(std::exp(out[2]) + std::exp(out[5]), 1, 1e-6);
  EXPECT_NEAR(out[2] - out[5], 1, 1e-6);
}

}  // namespace
}  // namespace tandem::reference
