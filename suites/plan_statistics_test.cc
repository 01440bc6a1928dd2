// Norms by statistics: plans of steps without norm kernels between their sublayers, interpreted.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/testing/test_seed.h"
#include "kernels/plan/kernel_check.h"
#include "suites/testing/plan_fixture.h"

namespace tandem {
namespace {

/// What the step's operations have of it.
struct Norms {
  int kernels = 0;    ///< operations that normalise
  int left = 0;       ///< products that leave statistics
  int applied = 0;    ///< products that apply a norm by them
  int residuals = 0;  ///< products that add a norm by them
  int with_norm_sums = 0;
  int operations = 0;
  bool operator==(const Norms&) const = default;
};
Norms norms_of(const StepPlan& plan) {
  Norms n;
  const OpRange step = plan.section(PlanSection::kStep);
  n.operations = step.last - step.first;
  for (int i = 0; i < static_cast<int>(plan.ops.size()); ++i) {
    const PlanOp& op = plan.ops[static_cast<size_t>(i)];
    const auto* dense = std::get_if<DenseOp>(&op.body);
    if (dense != nullptr) {
      EXPECT_TRUE(step.contains(i) || (dense->stats.empty() && dense->x_stats.empty())) << op_text(plan, i);
      n.left += dense->stats.empty() ? 0 : 1;
      n.applied += dense->x_stats.empty() ? 0 : 1;
      n.residuals += dense->residual_stats.empty() ? 0 : 1;
      n.with_norm_sums += dense->norm_sums.empty() ? 0 : 1;
    }
    if (step.contains(i) && std::holds_alternative<NormOp>(op.body)) ++n.kernels;
  }
  return n;
}

PlanRequest wide(const Fixture& f) {
  PlanRequest request = f.request();
  request.auto_own_rows = kernels::kAutoWideRows;
  request.norms_by_statistics = true;
  request.statistics_width = 0;
  return request;
}
Outputs wide_plan(const Fixture& f, std::span<const int32_t> fed) {
  return interpret(kernels::build_plan(wide(f)), f.batch, fed);
}

/// The same own products with norm kernels between them.
Outputs plan_with_norm_kernels(const Fixture& f, std::span<const int32_t> fed) {
  PlanRequest request = wide(f);
  request.norms_by_statistics = false;
  return interpret(kernels::build_plan(request), f.batch, fed);
}

/// The same plan with fp32 in the place of bf16: what it gets wrong is wrong by more than a rounding.
StepPlan unrounded(StepPlan plan) {
  for (PlanBuffer& b : plan.buffers) {
    if (b.dtype == DType::kBF16) b.dtype = DType::kF32;
  }
  place_buffers(plan);
  check_plan(plan);
  return plan;
}

double error_unrounded(const Fixture& f, const Truth& truth,
                       const std::function<void(StepPlan&)>& edit = {}) {
  StepPlan plan = unrounded(kernels::build_plan(wide(f)));
  if (edit) edit(plan);
  return relative_l2(interpret(plan, f.batch, truth.tokens).logits, truth.logits);
}

/// A preset's kinds of layers at sizes that a CPU computes in no time.
CoverCase small(const char* name, int rows, int d_model = 128) {
  CoverCase c;
  c.config = preset(name);
  c.config.d_model = d_model;
  c.config.head_dim = 32;
  c.config.encoder = {.layers = 1, .heads = 2, .d_ff = 96};
  c.config.decoder = {.layers = 2, .heads = 3, .d_ff = 136};
  c.config.vocab = 131;
  c.precision = Precision::kBf16;
  for (int i = 0; i < rows; ++i) c.lengths.push_back(1 + i % 4);
  c.text = fmt::format("{} rows {} d {}", name, rows, d_model);
  return c;
}
/// RMS norms, layer norms before and layer norms after the sublayers; with and without gates, biases and norms around the layers.
const std::vector<const char*> kModels = {"t5-small", "flan-t5-base", "nllb-600m", "transformer-base",
                                          "bart-large"};

// A mean or a scale of another row, a gamma of another norm, a sum that is forgotten: in every preset's kind of layers, to the
// bits that fp32 leaves of the algebra, and in bf16 as close to the reference as the plan with norm kernels.
TEST(PlanStatistics, GiveTheReferencesOutputs) {
  for (const char* name : kModels) {
    for (const int rows : {17, 33, 64}) {
      const CoverCase c = small(name, rows, rows == 33 ? 192 : 128);
      SCOPED_TRACE(c.text);
      const Fixture f(c);
      EXPECT_GT(norms_of(kernels::build_plan(wide(f))).applied, 0);
      EXPECT_LE(error_unrounded(f, truth_of(f, numerics_of(c))), 1e-5);
      expect_matches_reference(c, wide_plan);
      EXPECT_LE(errors_of(c, wide_plan).logits, 1.1 * errors_of(c, plan_with_norm_kernels).logits);
    }
  }
}

// The same for some combination of the model's features that no preset has.
TEST(PlanStatistics, GiveTheReferencesOutputsOfRandomModels) {
  const uint64_t seed = test_seed();
  std::mt19937_64 rng(seed);
  int with_statistics = 0;
  for (CoverCase c : kernels::covering_cases(seed, {Precision::kBf16})) {
    if (rng() % 2 == 0) continue;
    c.kernel = rng() % 2 == 0 ? "auto" : "own";
    c.config.d_model = static_cast<int>(64 * (1 + rng() % 3));
    c.lengths.resize(17 + rng() % 48);
    for (int32_t& length : c.lengths) length = static_cast<int32_t>(1 + rng() % 3);
    c.text += fmt::format(" as {} rows of {}", c.lengths.size(), c.config.d_model);
    SCOPED_TRACE(c.text);
    const Fixture f(c);
    const Norms norms = norms_of(kernels::build_plan(wide(f)));
    with_statistics += norms.applied > 0 ? 1 : 0;
    // After the embedding, of it where the model has such a norm, and before the head.
    EXPECT_LE(norms.kernels, c.config.embedding_norm ? 3 : 2);
    EXPECT_LE(error_unrounded(f, truth_of(f, numerics_of(c))), 1e-4);
    expect_matches_reference(c, wide_plan);
  }
  EXPECT_GE(with_statistics, 10);
}

/// The `index`-th product that has a field.
DenseOp& product_with(StepPlan& plan, PlanTensor DenseOp::*field, int index = 0) {
  for (PlanOp& op : plan.ops) {
    auto* dense = std::get_if<DenseOp>(&op.body);
    if (dense != nullptr && !(dense->*field).empty() && index-- == 0) return *dense;
  }
  throw Error("no such product");
}
void place_anew(StepPlan& plan) {
  find_lifetimes(plan);
  place_buffers(plan);
}

// A comparison that wrong statistics pass proves nothing.
TEST(PlanStatistics, WrongOnesShow) {
  const CoverCase c = small("transformer-base", 17);
  const Fixture f(c);
  const Truth truth = truth_of(f, numerics_of(c));
  const auto shows = [&](const char* what, const std::function<void(StepPlan&)>& edit) {
    EXPECT_GT(error_unrounded(f, truth, edit), 1e-3) << what;
  };
  shows("statistics of the norm before", [](StepPlan& plan) {
    const PlanTensor before = product_with(plan, &DenseOp::x_stats).x_stats;
    product_with(plan, &DenseOp::x_stats, 1).x_stats = before;
    place_anew(plan);
  });
  shows("gamma of another norm", [&](StepPlan& plan) {
    product_with(plan, &DenseOp::stats).stats_norm = f.weights.encoder.layers[0].ffn_norm;
  });
  shows("a residual that is not normed", [](StepPlan& plan) {
    DenseOp& op = product_with(plan, &DenseOp::residual_stats);
    op.residual_stats = {};
    op.residual_norm = {};
    place_anew(plan);
  });
  shows("sums of another matrix",
        [](StepPlan& plan) {  // the cross-attention's of the first layer in the second
          const PlanTensor first = product_with(plan, &DenseOp::norm_sums, 0).norm_sums;
          product_with(plan, &DenseOp::norm_sums, 3).norm_sums = first;
          place_anew(plan);
        });
}

PlanRequest preset_request(const char* name, int batch,
                           const WeightForm& form = {.precision = Precision::kBf16}) {
  const ModelConfig config = preset(name);
  // Views are never read, so any address will do.
  return {.config = config,
          .weights = bind_weights(weight_layout(config, form), reinterpret_cast<const void*>(4096)),
          .precision = form.precision,
          .batch = batch,
          .source_tokens = int64_t{128} * batch,
          .max_source = 128,
          .capacity = 128,
          .auto_own_rows = kernels::kAutoWideRows,
          .norms_by_statistics = true};
}

// A plan whose statistics do not go together would be run as something else, or past the end of a buffer.
TEST(PlanStatistics, HalvesAreRefused) {
  const auto refused = [&](const char* what, const std::function<void(StepPlan&)>& edit) {
    StepPlan plan = kernels::build_plan(preset_request("transformer-big", 17));
    edit(plan);
    SCOPED_TRACE(what);
    const auto says_what = [&](const std::function<void()>& check) {
      try {
        check();
        ADD_FAILURE() << "it is taken";
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
      }
    };
    says_what([&] { kernels::check_kernels(plan); });
    says_what([&] {
      for (int op = 0; op < static_cast<int>(plan.ops.size()); ++op) reference::refuse_unknown(plan, op);
    });
  };
  refused("`stats_norm`", [](StepPlan& p) { product_with(p, &DenseOp::stats).stats_norm = {}; });
  refused("`scaled`", [](StepPlan& p) { product_with(p, &DenseOp::stats).scaled = {}; });
  refused("`x_stats`", [](StepPlan& p) { product_with(p, &DenseOp::x_stats).norm = {}; });
  refused("`norm_sums`", [](StepPlan& p) { product_with(p, &DenseOp::x_stats).norm_sums = {}; });
  refused("`norm_sums`", [](StepPlan& p) { product_with(p, &DenseOp::x_stats).norm_sums.cols -= 8; });
  refused("`residual_norm`",
          [](StepPlan& p) { product_with(p, &DenseOp::residual_stats).residual_norm = {}; });
  refused("by 64", [](StepPlan& p) { product_with(p, &DenseOp::x_stats).x_stats.rows = 1; });
  refused("shape of y", [](StepPlan& p) { product_with(p, &DenseOp::stats).scaled.cols = 64; });
  StepPlan plan = kernels::build_plan(preset_request("transformer-big", 17));
  product_with(plan, &DenseOp::stats).kernel = DenseKernel::kLibrary;
  EXPECT_THROW(kernels::check_kernels(plan), UsageError) << "the library leaves none";
  plan = kernels::build_plan(preset_request("transformer-big", 17));
  plan.buffers[product_with(plan, &DenseOp::stats).stats.buffer].dtype = DType::kBF16;
  EXPECT_THROW(kernels::check_kernels(plan), UsageError) << "statistics are fp32";
}

// The claim of eight kernels a decoder layer at batch 17 to 64: a norm kernel after the embedding and one before the head are all
// that stay, in models that have norms there.
TEST(PlanStatistics, NoNormKernelsBetweenSublayers) {
  for (const auto& [name, kernels_left] : {std::pair{"transformer-big", 1},
                                           {"bart-large", 2},
                                           {"t5-large", 2},
                                           {"t5-3b", 2},
                                           {"nllb-600m", 2}}) {
    for (const int batch : {17, 33, 64}) {
      const PlanRequest request = preset_request(name, batch);
      const StepPlan plan = kernels::build_plan(request);
      SCOPED_TRACE(fmt::format("{} batch {}", name, batch));
      EXPECT_NO_THROW(kernels::check_kernels(plan));
      const std::vector<std::string> lines = kernel_lines(plan);
      EXPECT_EQ(std::ranges::count(lines, std::string("decoder norm: by statistics")), 1);
      const int layers = request.config.decoder.layers;
      const bool post = request.config.placement == NormPlacement::kPost;
      const int applied = 3 * layers - 1;  // all but the first layer's first, or the last layer's last
      EXPECT_EQ(norms_of(plan), (Norms{.kernels = kernels_left,
                                       .left = applied,
                                       .applied = applied,
                                       .residuals = post ? applied : 0,
                                       .with_norm_sums = request.config.norm == Norm::kLayer ? applied : 0,
                                       .operations = 8 * layers + 2 + kernels_left}));
    }
  }
}

// Without the sums the own product of few rows waits for the moments of each row: a step at batch 1 is slower, and nothing else says so.
TEST(PlanStatistics, FewRowsHaveTheSumsOfLayerNorms) {
  for (const char* name : {"transformer-base", "bart-large", "nllb-600m", "t5-base"}) {
    for (const Precision precision : {Precision::kBf16, Precision::kFp16}) {
      const PlanRequest request = preset_request(name, 1, {.precision = precision});
      const Norms norms = norms_of(kernels::build_plan(request));
      // In a post-norm model without a norm of the embedding none stands in front of the first product.
      const bool post = request.config.placement == NormPlacement::kPost && !request.config.embedding_norm;
      const bool sums = precision == Precision::kBf16 && request.config.norm == Norm::kLayer;
      EXPECT_EQ(norms.with_norm_sums, sums ? 3 * request.config.decoder.layers - (post ? 1 : 0) : 0) << name;
      EXPECT_EQ(norms.applied, 0) << name;
    }
  }
}

// Statistics from a kernel that cannot leave them, or for one that cannot take them.
TEST(PlanStatistics, NormKernelsStayWhereProductsHaveNoStatistics) {
  const auto stay = [](const char* what, const PlanRequest& request) {
    const StepPlan plan = kernels::build_plan(request);
    EXPECT_EQ(norms_of(plan).left, 0) << what;
    EXPECT_EQ(std::ranges::count(kernel_lines(plan), std::string("decoder norm: by statistics")), 0) << what;
    EXPECT_NO_THROW(kernels::check_kernels(plan)) << what;
  };
  const char* const name = "transformer-big";
  PlanRequest request = preset_request(name, 33);
  request.norms_by_statistics = false;
  stay("norm kernels were asked for", request);
  for (const char* narrow : {"transformer-base", "t5-base"})
    stay("a narrow model", preset_request(narrow, 64));
  stay("16 rows", preset_request(name, kernels::kStatisticsRows - 1));
  stay("65 rows", preset_request(name, kernels::kAutoWideRows + 1));
  stay("fp16", preset_request(name, 33, {.precision = Precision::kFp16}));
  stay("fp8", preset_request(name, 33, {.precision = Precision::kFp8}));
  stay("w8a16", preset_request(name, 33, {.precision = Precision::kW8a16}));
  stay("2:4", preset_request(name, 33, {.precision = Precision::kBf16, .sparsity = {.two_of_four = true}}));
  request = preset_request(name, 33);
  request.auto_own_rows = kernels::kAutoOwnRows;
  stay("no warpgroup tensor cores", request);
  request.kernel = kernels::KernelChoice::kOwn;
  stay("own products without them", request);
  request = preset_request(name, 33);
  request.kernel = kernels::KernelChoice::kLibrary;
  stay("the library", request);
  request.kernel = kernels::KernelChoice::kAuto;
  request.slice = TensorSlice{};
  stay("partial sums", request);
  for (const PhaseKind end : {PhaseKind::kSelfOut, PhaseKind::kCrossOut, PhaseKind::kFfnDown}) {
    request = preset_request(name, 33);
    request.step_form = {end};
    stay("a residual product of the library", request);
  }
  request = preset_request(name, 33);
  request.config.d_model = 1032;
  request.weights = bind_weights(weight_layout(request.config, {.precision = Precision::kBf16}),
                                 reinterpret_cast<const void*>(4096));
  stay("an odd width", request);
}

// A kind that a race left to the library between own ones would read statistics, or not get its norm.
TEST(PlanStatistics, OneReaderMayBeTheLibrarys) {
  for (const char* name : kModels) {
    for (const PhaseKind kind :
         {PhaseKind::kSelfQkv, PhaseKind::kCrossQkv, PhaseKind::kFfnUp, PhaseKind::kHead}) {
      const CoverCase c = small(name, 17);
      SCOPED_TRACE(fmt::format("{} {}", name, phase_name(kind)));
      const Fixture f(c);
      PlanRequest request = wide(f);
      request.step_form = {kind};
      const StepPlan plan = kernels::build_plan(request);
      EXPECT_GT(norms_of(plan).applied, 0);
      const Truth truth = truth_of(f, numerics_of(c));
      EXPECT_LE(relative_l2(interpret(unrounded(plan), f.batch, truth.tokens).logits, truth.logits), 1e-5);
    }
  }
}

}  // namespace
}  // namespace tandem
