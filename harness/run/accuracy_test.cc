#include "harness/run/accuracy.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "harness/base/error.h"
#include "harness/run/passes.h"
#include "harness/run/testing/fake_engine.h"

namespace tandem {
namespace {

using testing::FakeEngine;
using testing::Fault;

/// Says what it was asked for.
struct WatchedEngine : FakeEngine {
  explicit WatchedEngine(Fault fault) : FakeEngine("cuda", fault) {}
  void load(const Case& c, const ModelConfig& config, const WeightForm& form) override {
    loaded_lossy.push_back(is_lossy(c));
    FakeEngine::load(c, config, form);
  }
  Output forced_logits(const TransformerBatch& batch, std::span<const int32_t> tokens, int steps) override {
    fed.emplace_back(tokens.begin(), tokens.end());
    sizes = batch.lengths;
    return FakeEngine::forced_logits(batch, tokens, steps);
  }
  std::vector<bool> loaded_lossy;
  std::vector<std::vector<int32_t>> fed;
  std::vector<int32_t> sizes;
};

/// Of Fault::kLossyText: steps 0, 1, 30 and 31.
constexpr double kOwnText = 4 / 32.0;

Case lossy_decoder() {
  Case c;
  c.suite = Suite::kDecoder;
  c.model = "tiny";
  c.src = 9;
  c.tgt = 5;
  c.kv = "fp8";
  return c;
}

Output logits(int64_t rows, int64_t cols, std::vector<float> values, std::vector<int32_t> tokens = {7}) {
  return {.values = std::move(values), .rows = rows, .cols = cols, .tokens = std::move(tokens)};
}

// Breaks when a figure of a lossy form is not what its name says. By hand: |own - truth| = ln 3, |truth| = sqrt(5).
// Row 0: p = (1/2, 1/2), q = (1/4, 3/4), so KL = ln 2 - ln(3) / 2. Row 1 is the same on both sides.
TEST(Accuracy, HandComputedValues) {
  const float log3 = std::log(3.0f);
  const Output truth = logits(2, 2, {0, 0, 2, 1}, {0, 0, 1, 1});
  const Output own = logits(2, 2, {0, log3, 2, 1}, {0, 1, 0, 1});
  const Accuracy a =
      compute_accuracy({.own = own, .truth = truth, .logits = true, .synthetic_weights = true});
  EXPECT_NEAR(a.relative_error, log3 / std::sqrt(5.0), 1e-7);
  ASSERT_TRUE(a.kl && a.tokens_agree);
  EXPECT_NEAR(*a.kl, (std::log(2.0) - std::log(3.0) / 2) / 2, 1e-7);
  EXPECT_EQ(*a.tokens_agree, 0.5);
  EXPECT_EQ(a.free_tokens_agree, 0.5);
  EXPECT_EQ(a.tokens, 2);
  EXPECT_EQ(a.against, "dense fp32");
  EXPECT_TRUE(a.teacher_forced && a.synthetic_weights);
}

// Breaks when logits as large as a model without a final norm has overflow the softmax, or a shift of all logits of a row,
// which changes no probability, is counted.
TEST(Accuracy, ShiftsAndLargeLogitsDoNotDiverge) {
  const Output truth = logits(1, 2, {1000, 999});
  const Output own = logits(1, 2, {-3000, -3001});
  const Accuracy a = compute_accuracy({.own = own, .truth = truth, .logits = true});
  EXPECT_NEAR(*a.kl, 0, 1e-12);
  EXPECT_EQ(*a.tokens_agree, 1);
}

// Breaks when a form that computes NaN looks as if it agreed.
TEST(Accuracy, NanAgreesWithNothing) {
  const Output both = logits(2, 2, {NAN, 1, 2, 1});
  Accuracy a = compute_accuracy({.own = both, .truth = both, .logits = true});
  EXPECT_EQ(*a.tokens_agree, 0.5);
  EXPECT_FALSE(a.kl) << "absent, never 0";
  EXPECT_TRUE(std::isinf(a.relative_error));
  const Output truth = logits(1, 2, {2, 1});
  const Output own = logits(1, 2, {NAN, NAN});
  a = compute_accuracy({.own = own, .truth = truth, .logits = true});
  EXPECT_EQ(*a.tokens_agree, 0);
}

// Breaks when an encoder's output, which is no distribution, gets a divergence or tokens.
TEST(Accuracy, ValuesThatAreNoLogitsHaveAnErrorOnly) {
  const Output truth = logits(1, 2, {3, 4});
  const Output own = logits(1, 2, {3, 4.5});
  const Accuracy a = compute_accuracy({.own = own, .truth = truth});
  EXPECT_DOUBLE_EQ(a.relative_error, 0.1);
  EXPECT_EQ(a.tokens, 1);
  EXPECT_FALSE(a.kl || a.tokens_agree || a.free_tokens_agree || a.teacher_forced);
}

// Breaks when outputs of two models are compared as far as the shorter goes.
TEST(Accuracy, ShapesThatDifferThrow) {
  const Output truth = logits(2, 2, {1, 2, 3, 4});
  const Output wide = logits(1, 4, {1, 2, 3, 4}), cut = logits(2, 2, {1, 2, 3}), none = logits(0, 0, {});
  for (const Output* own : {&wide, &cut, &none}) {
    EXPECT_THROW(compute_accuracy({.own = *own, .truth = truth}), Error);
    EXPECT_THROW(compute_accuracy({.own = truth, .truth = *own}), Error);
  }
  EXPECT_THROW(compute_accuracy({.own = none, .truth = none}), Error);
  const Output longer = logits(2, 2, {1, 2, 3, 4}, {7, 7}), silent = logits(2, 2, {1, 2, 3, 4}, {});
  EXPECT_THROW(compute_accuracy({.own = longer, .truth = truth, .logits = true}), Error);
  EXPECT_THROW(compute_accuracy({.own = silent, .truth = silent, .logits = true}), Error);
}

// Breaks when the accuracy of a group depends on which of its cases comes first.
TEST(Accuracy, EveryCaseOfAGroupIsMeasuredOnTheSame) {
  Case a;
  a.precision = Precision::kFp8;
  Case b = a;
  b.batch = 64;
  b.src = 512;
  b.tgt = 3;
  b.lengths = "ragged:0.5";
  b.stop = "eos";
  b.kernel = "library";
  ASSERT_EQ(group_key(a), group_key(b));
  for (const Suite suite : kModelSuites) {
    a.suite = b.suite = suite;
    b.decode = suite == Suite::kGenerate ? "beam:4" : "greedy";
    const Case of_a = accuracy_case(a);
    EXPECT_EQ(of_a, accuracy_case(b));
    EXPECT_EQ(std::tuple(of_a.batch, of_a.src, of_a.tgt), std::tuple(8, 32, 32));
    EXPECT_EQ(of_a.precision, Precision::kFp8);
    EXPECT_EQ(of_a.suite, suite == Suite::kEncoder ? suite : Suite::kGenerate);
  }
}

// Breaks when the dense model's text is not what both are fed, or the form's own text is not made of its own tokens. In
// this form step 2 takes another token: by itself its text is another one from there on, until both
// meet by chance at step 30. What is loaded last is the case's.
TEST(Accuracy, BothModelsAreFedTheDenseModelsText) {
  const Case c = lossy_decoder();
  const ModelConfig config = preset("tiny");
  const Case text = accuracy_case(c);
  FakeEngine plain("cuda", Fault::kNone);
  plain.load(text, config, weight_form(text));
  const Output generated = run_once(plain, text, case_batch(text, config));

  WatchedEngine engine(Fault::kLossyText);
  HeldEngine held(engine);
  const GroupAccuracy found = measure_accuracy(c, config, held, int64_t{1} << 25);
  ASSERT_TRUE(found.accuracy) << found.reason.value_or("");
  const auto inputs = retrace_inputs(config, generated, 8, 32, 32);
  EXPECT_EQ(engine.fed, std::vector(2, inputs));
  EXPECT_EQ(engine.sizes, std::vector<int32_t>(8, 32)) << "of the sources";
  EXPECT_EQ(found.accuracy->tokens, 256) << "of a case of batch 1";
  EXPECT_EQ(found.accuracy->tokens_agree, 31 / 32.0);
  EXPECT_EQ(found.accuracy->free_tokens_agree, kOwnText);
  EXPECT_TRUE(found.accuracy->teacher_forced);
  EXPECT_EQ(engine.loaded_lossy, (std::vector<bool>{false, true}));
}

// Breaks when logits are held of all 32 steps where they are too many, or of none. Text costs no logits.
TEST(Accuracy, LargeVocabulariesCompareFewerSteps) {
  const ModelConfig config = preset("tiny");
  const int64_t step = int64_t{8} * config.vocab;
  for (const auto& [max_logits, steps] : {std::pair(5 * step + 1, 5), {int64_t{1}, 1}}) {
    FakeEngine engine("cuda", Fault::kLossyText);
    HeldEngine held(engine);
    const GroupAccuracy found = measure_accuracy(lossy_decoder(), config, held, max_logits);
    ASSERT_TRUE(found.accuracy) << found.reason.value_or("");
    EXPECT_EQ(found.accuracy->tokens, 8 * steps);
    EXPECT_DOUBLE_EQ(*found.accuracy->tokens_agree, steps > 2 ? 1 - 1.0 / steps : 1);
    EXPECT_EQ(found.accuracy->free_tokens_agree, kOwnText);
  }
}

// Breaks when a model of fewer positions, or one that does not fit in the dense form, ends in something else than a reason.
TEST(Accuracy, WhatCannotBeMeasuredSaysWhy) {
  const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "tandem-short.json";
  ModelConfig config = preset("tiny");
  config.position = Position::kLearned;  // a table, which ends
  config.max_positions = 31;
  std::ofstream(path) << nlohmann::json(config).dump();
  Case c = lossy_decoder();
  c.model = path.string();
  FakeEngine engine("cuda", Fault::kNone), small("cuda", Fault::kNoDense);
  HeldEngine held(engine), held_small(small);
  for (const Suite suite : kModelSuites) {
    c.suite = suite;
    const GroupAccuracy found = measure_accuracy(c, config, held, 1);
    EXPECT_FALSE(found.accuracy);
    EXPECT_EQ(found.reason, fmt::format("8 sequences of 32 tokens: src: 32 is beyond the 31 positions of {}",
                                        path.string()));
  }
  EXPECT_EQ(engine.loads, 0);
  EXPECT_EQ(measure_accuracy(lossy_decoder(), preset("tiny"), held_small, 1)
                .reason.value_or("")
                .find("the dense fp32 model: out of memory"),
            0);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace tandem
