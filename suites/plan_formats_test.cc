// Plans of quantised weights, activations and K/V caches, interpreted on a machine that needs no GPU.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
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

// The same where activations or the K/V cache are quantised: scales of the wrong row, head or token.
TEST(PlanFormats, QuantisedActivationsMatchTheReferenceInTheSameFormat) {
  bool own = false;
  for (CoverCase c : kernels::covering_cases(
           test_seed() + 3, {Precision::kFp8, Precision::kInt8, Precision::kBf16, Precision::kW4a16},
           {KvType::kSame, KvType::kFp8, KvType::kInt8})) {
    if (c.kv == KvType::kSame && dtype_bits(kv_dtype(c.precision, c.kv)) == 16) continue;
    if (c.kernel == "auto" && (own = !own)) c.kernel = "own";
    expect_matches_quantised(c);
  }
}

// The pruning axis: masks that belong to other rows, heads whose bias is another head's, sizes of the whole model. Sparse
// storage by own products and by the library on an unpacked matrix, zeros where rows are codes.
TEST(PlanFormats, PrunedWeightsMatchTheReferenceOfTheirValues) {
  const std::vector<SparsitySpec> patterns = {{.two_of_four = true},
                                              {.unstructured = 0.5},
                                              {.unstructured = 0.9},
                                              {.threshold = 0.01},
                                              {.heads = 0.5},
                                              {.ffn = 0.5},
                                              {.layers = 0.5},
                                              {.two_of_four = true, .ffn = 0.5},
                                              {.unstructured = 0.6, .heads = 0.5}};
  int rows = 0, skipped = 0, own = 0, unpacked = 0;
  for (const CoverCase& c : kernels::covering_cases(
           test_seed() + 5, {Precision::kFp32, Precision::kBf16, Precision::kW8a16, Precision::kFp8},
           {KvType::kSame}, {1}, patterns)) {
    ++rows;
    SCOPED_TRACE(c.text);
    try {
      for (const PlanOp& op : kernels::build_plan(Fixture(c).request()).ops) {
        const auto* dense = std::get_if<DenseOp>(&op.body);
        if (dense == nullptr || !dense->weight.sparse()) continue;
        (dense->kernel == DenseKernel::kSkinny ? own : unpacked) += 1;
      }
      if (!quantises_activations({.precision = c.precision})) {
        expect_matches_reference(c);
        continue;
      }
      const Errors errors = errors_of(c), change = change_by_rounding(c);
      EXPECT_LE(errors.encoder, std::max(2e-2, 4 * change.encoder));
      EXPECT_LE(errors.logits, std::max(2e-2, 4 * change.logits));
    } catch (const ImpossibleCase& e) {
      ++skipped;
      std::cout << "skipped: " << e.what() << '\n';
    }
  }
  EXPECT_LE(10 * skipped, rows);
  EXPECT_GT(own, 0);
  EXPECT_GT(unpacked, 0);
}

/// A decoder on own kernels, with everything that is quantised to 8 bits.
CoverCase narrow_case() {
  CoverCase c = small_case();
  c.precision = Precision::kInt8;
  c.kernel = "own";
  c.config.placement = NormPlacement::kPre;
  c.config.final_norm = true;
  c.lengths = {5, 3, 9, 7, 2, 6};  // more rows than a product normalises itself
  return c;
}

double logits_error(const Fixture& f, const StepPlan& plan) {
  const Truth truth = truth_of(f, numerics_of(f.cover));
  return relative_l2(interpret(plan, f.batch, truth.tokens).logits, truth.logits);
}

// Codes and masks that a plan gives to a matrix of another layer would go unseen if the interpreter did not unpack them.
TEST(PlanFormats, MasksOfAnotherMatrixGiveAWrongResult) {
  for (const SparsitySpec& sparsity :
       {SparsitySpec{.two_of_four = true}, SparsitySpec{.unstructured = 0.5}}) {
    CoverCase c = small_case();
    c.precision = Precision::kBf16;
    c.sparsity = sparsity;
    const Fixture f(c);
    StepPlan plan = kernels::build_plan(f.request());
    const double unit = logits_error(f, plan);
    EXPECT_LT(unit, 0.1);
    for (PlanOp& op : plan.ops) {
      auto* dense = std::get_if<DenseOp>(&op.body);
      if (dense == nullptr || op.phase.kind != PhaseKind::kSelfOut || op.phase.side != Side::kDecoder)
        continue;
      const DenseWeight& other = f.stored_weights.decoder.layers[0].cross.out;
      (sparsity.two_of_four ? dense->weight.metadata : dense->weight.bitmap) =
          sparsity.two_of_four ? other.metadata : f.stored_weights.decoder.layers[0].cross.q.bitmap;
    }
    EXPECT_GT(logits_error(f, plan), 2 * unit);
  }
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

// The claim that one row costs no pass more than in bf16, and several rows three passes a layer: norms write codes themselves.
TEST(PlanFormats, AStepQuantisesInItsProductsAndNorms) {
  for (const Precision precision : {Precision::kFp8, Precision::kInt8}) {
    for (const int batch : {1, 6}) {
      CoverCase c = narrow_case();
      c.precision = precision;
      c.lengths.resize(static_cast<size_t>(batch));
      const Fixture f(c);
      const StepPlan plan = kernels::build_plan(f.request());
      const OpRange step = plan.section(PlanSection::kStep);
      int passes = 0;
      for (int op = step.first; op < step.last; ++op)
        passes += std::holds_alternative<QuantiseOp>(plan.ops[op].body) ? 1 : 0;
      const int layers = c.config.decoder.layers;
      EXPECT_EQ(passes, batch > 1 ? 3 * layers : 0) << plan_text(plan);
      EXPECT_EQ(step.last - step.first, batch > 1 ? (8 + 3 + 3) * layers + 3 : 8 * layers + 2);
    }
  }
}

// Without it: a card whose own kernels have no products of codes by codes would be given them.
TEST(PlanFormats, OlderCardsMultiplyCodesByTheLibrary) {
  const Fixture f(narrow_case());
  kernels::PlanRequest request = f.request();
  request.auto_own_rows = kernels::kAutoOwnRows;
  for (const PlanOp& op : kernels::build_plan(request).ops) {
    const auto* dense = std::get_if<DenseOp>(&op.body);
    if (dense != nullptr && dense->weight.input_dtype) {
      EXPECT_EQ(dense->kernel, DenseKernel::kLibrary);
    }
    EXPECT_FALSE(std::holds_alternative<HeadOp>(op.body));
  }
}

}  // namespace
}  // namespace tandem
