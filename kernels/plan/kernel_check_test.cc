#include "kernels/plan/kernel_check.h"

#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <string>

#include "harness/base/error.h"
#include "harness/base/testing/test_seed.h"
#include "kernels/plan/builder.h"
#include "kernels/plan/testing/model_cover.h"

namespace tandem::kernels {
namespace {

/// The plan of a case with weights stored as `weights`. Views are never read, so any address will do.
StepPlan plan_of(const CoverCase& c, DType weights, bool partial_sums = false, bool tiled = false) {
  return build_plan({.config = c.config,
                     .weights = bind_weights(weight_layout(c.config, {.plain = weights}),
                                             reinterpret_cast<const void*>(4096)),
                     .precision = c.precision,
                     .kernel = parse_kernel(c.kernel),
                     .batch = static_cast<int>(c.lengths.size()),
                     .source_tokens = std::accumulate(c.lengths.begin(), c.lengths.end(), int64_t{0}),
                     .max_source = *std::max_element(c.lengths.begin(), c.lengths.end()),
                     .capacity = 4,
                     .tiled = tiled,
                     .auto_tiled_rows = 1,
                     .slice = partial_sums ? std::optional<TensorSlice>(TensorSlice{}) : std::nullopt});
}

// A plan that the kernels compute today would be refused on a card.
TEST(KernelCheck, TakesEveryPlanOfOneType) {
  for (const CoverCase& c : covering_cases(
           test_seed(), {Precision::kFp32, Precision::kTf32, Precision::kFp16, Precision::kBf16})) {
    SCOPED_TRACE(c.text);
    for (const bool partial_sums : {false, true}) {
      for (const bool tiled : {false, true})
        EXPECT_NO_THROW(check_kernels(plan_of(c, activation_dtype(c.precision), partial_sums, tiled)));
    }
  }
}

// Weights of one type would be read as another by kernels that know one type for both.
TEST(KernelCheck, RefusesWeightsOfAnotherType) {
  for (const char* kernel : {"own", "library"}) {
    for (const Precision precision : {Precision::kFp32, Precision::kFp16, Precision::kBf16}) {
      CoverCase c{
          .config = preset("tiny"), .precision = precision, .kernel = kernel, .lengths = {5, 9}, .text = {}};
      for (const DType weights : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8, DType::kU8}) {
        SCOPED_TRACE(kernel);
        if (weights == activation_dtype(precision)) continue;
        EXPECT_THROW(check_kernels(plan_of(c, weights)), UsageError) << dtype_name(weights);
      }
    }
  }
}

template <typename Op>
int first(const StepPlan& plan, const std::function<bool(const Op&)>& is = {}) {
  for (size_t i = 0; i < plan.ops.size(); ++i) {
    const Op* op = std::get_if<Op>(&plan.ops[i].body);
    if (op != nullptr && (!is || is(*op))) return static_cast<int>(i);
  }
  ADD_FAILURE() << "no such operation";
  return 0;
}

// A pair that slips through is computed from wrong bits; a refusal without names is of no use.
TEST(KernelCheck, NamesOperationAndWhatIsWrong) {
  CoverCase own{.config = preset("tiny"),
                .precision = Precision::kBf16,
                .kernel = "own",
                .lengths = {5, 9},
                .text = {}};
  own.config.placement = NormPlacement::kPre;
  own.config.final_norm = own.config.bias = true;
  CoverCase library = own;
  library.kernel = "library";
  const auto refused = [](const CoverCase& c, const char* what,
                          const std::function<void(StepPlan&, PlanOp&)>& edit, int (*at)(const StepPlan&)) {
    StepPlan plan = plan_of(c, DType::kBF16, true);
    const int op = at(plan);
    edit(plan, plan.ops[op]);
    try {
      check_kernels(plan);
      ADD_FAILURE() << what << " was accepted";
    } catch (const UsageError& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find(what), std::string::npos) << message;
      EXPECT_NE(message.find(op_text(plan, op)), std::string::npos) << message;
    }
  };
  const auto dense = [](const StepPlan& p) { return first<DenseOp>(p); };
  const auto sums = [](const StepPlan& p) {
    return first<CommOp>(p, [](const CommOp& c) { return c.norm && !c.norm->residual.empty(); });
  };
  const auto norm_of = [](PlanOp& op) -> NormOp& { return *std::get<CommOp>(op.body).norm; };
  refused(
      own, "scale", [](StepPlan&, PlanOp& op) { std::get<DenseOp>(op.body).scale = 2; }, dense);
  refused(
      library, "gate", [](StepPlan&, PlanOp& op) { std::get<DenseOp>(op.body).gated = true; }, dense);
  refused(
      library, "norm", [](StepPlan&, PlanOp& op) { std::get<DenseOp>(op.body).norm = NormWeight{}; }, dense);
  refused(
      library, "no norm, codes, scale",
      [](StepPlan&, PlanOp& op) {
        std::get<DenseOp>(op.body).kernel = DenseKernel::kTiled;
        std::get<DenseOp>(op.body).scale = 2;
      },
      dense);
  for (const CoverCase* c : {&own, &library}) {
    refused(
        *c, "'weight' is i32",
        [](StepPlan&, PlanOp& op) { std::get<DenseOp>(op.body).weight.weight.dtype = DType::kI32; }, dense);
    refused(
        *c, "needs its scales",
        [](StepPlan&, PlanOp& op) { std::get<DenseOp>(op.body).weight.weight.dtype = DType::kI8; }, dense);
    refused(
        *c, "rows are quantised for a matrix of codes",
        [](StepPlan&, PlanOp& op) { std::get<DenseOp>(op.body).weight.input_dtype = DType::kF8; }, dense);
    refused(
        *c, "'bias' is f16",
        [](StepPlan&, PlanOp& op) { std::get<DenseOp>(op.body).weight.bias.dtype = DType::kF16; }, dense);
  }
  refused(
      own, "'norm.gamma' is i8", [&](StepPlan&, PlanOp& op) { norm_of(op).weight.gamma.dtype = DType::kI8; },
      sums);
  refused(
      own, "'norm.beta' is f32", [&](StepPlan&, PlanOp& op) { norm_of(op).weight.beta.dtype = DType::kF32; },
      sums);
  refused(
      own, "'sum' is bf16",
      [&](StepPlan& p, PlanOp& op) { p.buffers[norm_of(op).sum.buffer].dtype = DType::kBF16; }, sums);
  refused(
      own, "'k_cache' is u8",
      [](StepPlan& p, PlanOp& op) {
        p.buffers[std::get<SelfAttentionOp>(op.body).k_cache.buffer].dtype = DType::kU8;
      },
      [](const StepPlan& p) { return first<SelfAttentionOp>(p); });
  refused(
      library, "'bias' is i8",
      [](StepPlan&, PlanOp& op) {
        std::get<SelectOp>(op.body).bias = {.data = &op, .dtype = DType::kI8, .rows = 1, .cols = 1};
      },
      [](const StepPlan& p) { return first<SelectOp>(p); });
}

}  // namespace
}  // namespace tandem::kernels
