// Plans of quantised weights, activations and K/V caches, interpreted on a machine that needs no GPU.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "harness/base/error.h"
#include "harness/base/testing/test_seed.h"
#include "suites/testing/plan_fixture.h"

namespace tandem {
namespace {

// A builder that wires codes, scales or row maxima wrong for some combination of the model's features, or reads stored weights
// by another layout than they have.
TEST(PlanFormats, WeightOnlyFormatsMatchTheReferenceOfTheirValues) {
  for (const CoverCase& c : kernels::covering_cases(test_seed() + 2, {Precision::kW8a16, Precision::kW4a16}))
    expect_matches_reference(c);
}

/// How much the reference of a case changes when what it quantises is rounded to bf16 first.
Errors change_by_rounding(const CoverCase& c) {
  const Fixture f(c);
  reference::Numerics numerics = numerics_of(c);
  const Truth exact = truth_of(f, numerics);
  numerics.bf16_inputs = true;
  const reference::Matrix encoder =
      reference::encoder_forward(c.config, f.weights.encoder, f.batch, numerics);
  const reference::Matrix logits =
      reference::forced_logits(c.config, f.weights, f.batch, exact.tokens, kSteps, numerics);
  return {ordinary_error(encoder.values, exact.encoder, c.config.d_model),
          ordinary_error(logits.values, exact.logits, c.config.vocab)};
}

// The same where activations or the K/V cache are quantised: scales of the wrong row, head or token, maxima of rows that
// nobody raised or zeroed.
TEST(PlanFormats, QuantisedActivationsMatchTheReferenceInTheSameFormat) {
  for (const CoverCase& c : kernels::covering_cases(
           test_seed() + 3, {Precision::kFp8, Precision::kInt8, Precision::kBf16, Precision::kW4a16},
           {KvType::kSame, KvType::kFp8, KvType::kInt8})) {
    if (c.kv == KvType::kSame && dtype_bits(kv_dtype(c.precision, c.kv)) == 16) continue;
    SCOPED_TRACE(c.text);
    const Errors errors = errors_of(c);
    const Errors change = change_by_rounding(c);
    EXPECT_LE(errors.encoder, std::max(2e-2, 4 * change.encoder));
    EXPECT_LE(errors.logits, std::max(2e-2, 4 * change.logits));
  }
}

/// A decoder on own kernels, with everything that is quantised to 8 bits.
CoverCase narrow_case() {
  CoverCase c = small_case();
  c.precision = Precision::kInt8;
  c.config.placement = NormPlacement::kPre;
  c.config.final_norm = true;
  c.lengths = {5, 3, 9, 7, 2, 6};  // more rows than a product normalises itself
  return c;
}

double logits_error(const Fixture& f, const StepPlan& plan) {
  const Truth truth = truth_of(f, numerics_of(f.cover));
  return relative_l2(interpret(plan, f.batch, truth.tokens).logits, truth.logits);
}

// Scales that belong to other codes: the interpreter would see nothing if it did not read them.
TEST(PlanFormats, ScalesOfOtherCodesGiveAWrongResult) {
  const Fixture f(narrow_case());
  StepPlan right = kernels::build_plan(f.request());
  const double unit = logits_error(f, right);
  EXPECT_LT(unit, 0.1);
  const auto error_after = [&](auto edit) {
    StepPlan plan = right;
    for (PlanOp& op : plan.ops) edit(op);
    find_lifetimes(plan);
    place_buffers(plan);
    return logits_error(f, plan);
  };
  EXPECT_GT(error_after([](PlanOp& op) {
              if (auto* cross = std::get_if<CrossAttentionOp>(&op.body))
                std::swap(cross->k_scales, cross->v_scales);
            }),
            2 * unit);
}

// A maximum of other rows, or one that was not zeroed, would scale the rows of every later step.
TEST(PlanFormats, WrongRowMaximaAreRefused) {
  const Fixture f(narrow_case());
  const StepPlan right = kernels::build_plan(f.request());
  const auto refusal = [&](auto edit) -> std::string {
    StepPlan plan = right;
    for (PlanOp& op : plan.ops) edit(op);
    find_lifetimes(plan);
    place_buffers(plan);
    try {
      logits_error(f, plan);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  PlanTensor first;
  EXPECT_NE(refusal([&](PlanOp& op) {
              auto* dense = std::get_if<DenseOp>(&op.body);
              if (dense == nullptr || dense->x_max.empty() || op.phase.side != Side::kDecoder) return;
              if (first.empty() && op.phase.kind == PhaseKind::kFfnDown) first = dense->x_max;
              if (!first.empty()) dense->x_max = first;
            }).find("largest magnitude"),
            std::string::npos);
  EXPECT_NE(refusal([](PlanOp& op) {
              if (auto* embed = std::get_if<EmbedOp>(&op.body)) embed->zeroed = {};
            }).find("nobody wrote"),
            std::string::npos);
}

// The claim that no pass of its own finds maxima or makes codes in a step: eight operations a layer, and three norms where a
// product has too many rows to normalise them itself.
TEST(PlanFormats, AStepQuantisesInItsProductsAlone) {
  for (const Precision precision : {Precision::kFp8, Precision::kInt8}) {
    for (const int batch : {1, 6}) {
      CoverCase c = narrow_case();
      c.precision = precision;
      c.lengths.resize(static_cast<size_t>(batch));
      const Fixture f(c);
      const StepPlan plan = kernels::build_plan(f.request());
      const OpRange step = plan.section(PlanSection::kStep);
      int passes = 0;
      for (int op = step.first; op < step.last; ++op) {
        passes += std::holds_alternative<QuantiseOp>(plan.ops[op].body) ? 1 : 0;
        passes += std::holds_alternative<RowMaxOp>(plan.ops[op].body) ? 1 : 0;
      }
      EXPECT_EQ(passes, 0) << plan_text(plan);
      const int norms = batch > 4 ? 3 : 0;
      EXPECT_EQ(step.last - step.first, (8 + norms) * c.config.decoder.layers + 2 + (batch > 4 ? 1 : 0));
    }
  }
}

}  // namespace
}  // namespace tandem
