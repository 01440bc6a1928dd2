// Plans put together by hand: what check_plan allows of an operation that leaves two results.
#include "harness/engine/plan.h"

#include <gtest/gtest.h>

#include <string>

#include "harness/base/error.h"

namespace tandem {
namespace {

constexpr int64_t kRows = 3;
constexpr int64_t kCols = 8;

PlanTensor rows_of(int buffer) {
  return {.buffer = buffer, .rows = kRows, .cols = kCols, .stride = kCols};
}

enum Buffer : int { kX, kResidual, kSum, kY, kOut, kBuffers };

/// y = norm(x + residual) with its sum, then out = norm(y + sum): a later residual that reads the sum.
StepPlan two_norms() {
  StepPlan plan;
  for (const char* name : {"x", "residual", "sum", "y", "out"})
    plan.buffers.push_back({.name = name, .dtype = DType::kF32, .elements = kRows * kCols});
  for (const int input : {kX, kResidual}) plan.buffers[input].role = BufferRole::kInput;
  plan.buffers[kOut].role = BufferRole::kState;
  plan.ops.push_back(
      {.phase = {.kind = PhaseKind::kNorm},
       .body =
           NormOp{.x = rows_of(kX), .residual = rows_of(kResidual), .sum = rows_of(kSum), .y = rows_of(kY)}});
  plan.ops.push_back(
      {.phase = {.kind = PhaseKind::kNorm},
       .body = NormOp{.x = rows_of(kY), .residual = rows_of(kSum), .sum = {}, .y = rows_of(kOut)}});
  for (OpRange& s : plan.sections) s = {2, 2};
  plan.sections[0] = {0, 2};
  return plan;
}

NormOp& norm(StepPlan& plan, int op) {
  return std::get<NormOp>(plan.ops[op].body);
}

/// Placed anew and checked.
void place_and_check(StepPlan plan) {
  find_lifetimes(plan);
  place_buffers(plan);
  check_plan(plan);
}

// A sum that the plan does not know would share memory with what is written before it is read.
TEST(NormSum, LivesUntilItIsRead) {
  StepPlan plan = two_norms();
  ASSERT_NO_THROW(place_and_check(plan));
  find_lifetimes(plan);
  EXPECT_EQ(plan.buffers[kSum].first_op, 0);
  EXPECT_EQ(plan.buffers[kSum].last_op, 1);
  place_buffers(plan);
  EXPECT_NE(plan.buffers[kSum].offset_bytes, plan.buffers[kY].offset_bytes);
  EXPECT_NE(plan_text(plan).find("x[3x8] residual[3x8] -> sum[3x8] y[3x8]"), std::string::npos)
      << plan_text(plan);
}

// The reader of a sum that nobody leaves would read what the memory held before.
TEST(NormSum, IsMissedByItsReader) {
  StepPlan plan = two_norms();
  norm(plan, 0).sum = {};
  EXPECT_THROW(place_and_check(plan), Error);
}

// The kernel writes sum and y from the same thread that read x and residual: each may be in place, element by element, but
// not both in one.
TEST(NormSum, MayBeInPlaceOfWhatWasAdded) {
  for (const int in_place : {kX, kResidual}) {
    StepPlan plan = two_norms();
    norm(plan, 0).sum = norm(plan, 1).residual = rows_of(in_place);
    EXPECT_NO_THROW(place_and_check(plan));
    norm(plan, 0).y = norm(plan, 1).x = rows_of(in_place == kX ? kResidual : kX);
    EXPECT_NO_THROW(place_and_check(plan)) << "and y in place of the other";
  }
  StepPlan same = two_norms();
  norm(same, 0).sum = rows_of(kY);
  EXPECT_THROW(place_and_check(same), Error) << "sum and y in one place";
  StepPlan shifted = two_norms();
  shifted.buffers[kX].elements += kCols;
  norm(shifted, 0).sum = rows_of(kX);
  norm(shifted, 0).sum.offset = kCols;
  EXPECT_THROW(place_and_check(shifted), Error) << "sum a row further than x";
}

// An executor or an interpreter that goes by this list would not look at a weight that is not in it.
TEST(WeightsOf, NamesWhatAnOperationReads) {
  const float value = 0;
  const TensorView view{.data = &value, .rows = 1, .cols = 1};
  const auto names = [](const PlanOp& op) {
    std::string all;
    for (const PlanWeight& w : weights_of(op)) all += std::string(w.name) + " ";
    return all;
  };
  const Phase phase{.kind = PhaseKind::kNorm};
  const NormWeight norm{.gamma = view, .beta = view};
  const DenseWeight dense{.weight = view, .bias = view};
  EXPECT_EQ(names({phase, EmbedOp{.table = view, .learned = view}}), "table learned ");
  EXPECT_EQ(names({phase, NormOp{.weight = norm}}), "norm.gamma norm.beta ");
  EXPECT_EQ(names({phase, DenseOp{.stats_norm = norm, .residual_norm = norm}}),
            "stats_norm.gamma residual_norm.gamma residual_norm.beta ");
  EXPECT_EQ(names({phase, DenseOp{.weight = dense, .norm = norm}}), "norm.gamma norm.beta weight bias ");
  EXPECT_EQ(names({phase, DenseOp{.weight = {.weight = view, .bias = {}}}}), "weight ");
  EXPECT_EQ(names({phase, ActivationOp{.bias = view}}), "bias ");
  EXPECT_EQ(names({phase, EncoderAttentionOp{.bias = {.table = view}}}), "bias.table ");
  EXPECT_EQ(names({phase, SelfAttentionOp{.bias = {.table = view}}}), "bias.table ");
  EXPECT_EQ(names({phase, CrossAttentionOp{}}), "");
  EXPECT_EQ(names({phase, HeadOp{.norm = norm, .weight = dense}}), "norm.gamma norm.beta weight bias ");
  EXPECT_EQ(names({phase, SelectOp{.bias = view}}), "bias ");
  EXPECT_EQ(names({phase, ChooseOp{.bias = view}}), "bias ");
  EXPECT_EQ(names({phase, BeamOp{.bias = view}}), "bias ");
  EXPECT_EQ(names({phase, RowSumsOp{.bias = view}}), "bias ");
  EXPECT_EQ(names({phase, CandidatesOp{.bias = view}}), "bias ");
  EXPECT_EQ(names({phase, CommOp{.norm = NormOp{.weight = norm}}}), "norm.gamma norm.beta ");
}

}  // namespace
}  // namespace tandem
