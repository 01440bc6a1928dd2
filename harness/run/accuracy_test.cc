#include "harness/run/accuracy.h"

#include <gtest/gtest.h>

#include <cmath>

#include "harness/base/error.h"

namespace tandem {
namespace {

Output logits(int64_t rows, int64_t cols, std::vector<float> values) {
  Output out;
  out.rows = rows;
  out.cols = cols;
  out.values = std::move(values);
  return out;
}

const std::vector<int32_t> kTokens = {1, 0, 0, 1};  // [batch 2, steps 2]

TokenGrid grid_of(int batch, int steps) {
  return {.tokens = kTokens, .batch = batch, .steps = steps, .stride = steps};
}

// Breaks when a figure of a lossy form is not what its name says. By hand: |own - truth| = ln 3, |truth| = sqrt(5).
// Row 0: p = (1/2, 1/2), q = (1/4, 3/4), so KL = ln 2 - ln(3) / 2. Row 1 is the same on both sides.
TEST(Accuracy, HandComputedValues) {
  const float log3 = std::log(3.0f);
  const Output truth = logits(2, 2, {0, 0, 2, 1});
  const Output own = logits(2, 2, {0, log3, 2, 1});
  const Accuracy a = compute_accuracy(
      {.own = own, .truth = truth, .grid = grid_of(2, 1), .teacher_forced = true, .synthetic_weights = true});
  EXPECT_NEAR(a.relative_error, log3 / std::sqrt(5.0), 1e-7);
  ASSERT_TRUE(a.kl && a.tokens_agree);
  EXPECT_NEAR(*a.kl, (std::log(2.0) - std::log(3.0) / 2) / 2, 1e-7);
  EXPECT_EQ(*a.tokens_agree, 0.5);
  EXPECT_EQ(a.against, "dense fp32");
  EXPECT_TRUE(a.teacher_forced && a.synthetic_weights);
}

// Breaks when logits as large as a model without a final norm has overflow the softmax, or a shift of all logits of a row,
// which changes no probability, is counted.
TEST(Accuracy, ShiftsAndLargeLogitsDoNotDiverge) {
  const Output truth = logits(1, 2, {1000, 999});
  const Output own = logits(1, 2, {-3000, -3001});
  const Accuracy a = compute_accuracy({.own = own, .truth = truth, .grid = grid_of(1, 1)});
  EXPECT_NEAR(*a.kl, 0, 1e-12);
  EXPECT_EQ(*a.tokens_agree, 1);
}

// Breaks when a form that computes NaN looks as if it agreed.
TEST(Accuracy, NanAgreesWithNothing) {
  const Output both = logits(2, 2, {NAN, 1, 2, 1});
  Accuracy a = compute_accuracy({.own = both, .truth = both, .grid = grid_of(2, 1)});
  EXPECT_EQ(*a.tokens_agree, 0.5);
  EXPECT_FALSE(a.kl) << "absent, never 0";
  EXPECT_TRUE(std::isinf(a.relative_error));
  const Output truth = logits(1, 2, {2, 1});
  const Output own = logits(1, 2, {NAN, NAN});
  a = compute_accuracy({.own = own, .truth = truth, .grid = grid_of(1, 1)});
  EXPECT_EQ(*a.tokens_agree, 0);
}

// Breaks when what stands after the end of a sequence counts: sequence 0 ends at once, so that its second row does not.
TEST(Accuracy, RowsAfterTheEndAreLeftOut) {
  const Output truth = logits(4, 2, {0, 1, 1, 0, 0, 1, 1, 0});  // step-major: rows 0 and 2 are of sequence 0
  const Output own = logits(4, 2, {0, 1, 1, 0, 1, 0, 1, 0});
  TokenGrid grid = grid_of(2, 2);
  EXPECT_EQ(*compute_accuracy({.own = own, .truth = truth, .grid = grid}).tokens_agree, 0.75);
  grid.eos_id = 1;
  const Accuracy a = compute_accuracy({.own = own, .truth = truth, .grid = grid});
  EXPECT_EQ(*a.tokens_agree, 1);
  EXPECT_EQ(*a.kl, 0);
}

// Breaks when an encoder's output, which is no distribution, gets a divergence or tokens.
TEST(Accuracy, ValuesThatAreNoLogitsHaveAnErrorOnly) {
  const Output truth = logits(1, 2, {3, 4});
  const Output own = logits(1, 2, {3, 4.5});
  const Accuracy a = compute_accuracy({.own = own, .truth = truth});
  EXPECT_DOUBLE_EQ(a.relative_error, 0.1);
  EXPECT_FALSE(a.kl || a.tokens_agree);
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
  EXPECT_THROW(compute_accuracy({.own = truth, .truth = truth, .grid = grid_of(2, 2)}), Error);
}

}  // namespace
}  // namespace tandem
