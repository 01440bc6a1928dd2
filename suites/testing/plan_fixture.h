// What the tests of plans share: a model on the host in both its forms, a plan interpreted, and how far it may be from the
// reference's forward pass.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "harness/engine/compare.h"
#include "harness/model/batch.h"
#include "harness/weights/materialise.h"
#include "harness/weights/values/seeded.h"
#include "kernels/plan/builder.h"
#include "kernels/plan/testing/model_cover.h"
#include "reference/engine/plan_interpreter.h"
#include "reference/model/encoder.h"
#include "reference/model/generate.h"

namespace tandem {

using kernels::CoverCase;
using kernels::PlanRequest;

inline constexpr int kSteps = 5;

/// A model with seeded weights and a batch on the host: the case's values in fp32, and stored as an engine stores them where
/// the case quantises them.
struct Fixture {
  explicit Fixture(const CoverCase& c, uint64_t with_seed = 7)
      : seed(with_seed),
        cover(c),
        host(host_weights(c.config, WeightsSpec{.seed = seed}, form(c))),
        weights(host.weights()) {
    batch = make_batch(c.config, c.lengths, seed);
    cover.config = host.config();
    if (!lossy(form(c))) return;
    const WeightLayout layout =
        weight_layout(c.config, form(c), prune(SeededSource({.seed = seed}), c.config, form(c)));
    stored.resize(static_cast<size_t>(layout.bytes));
    materialise(*weight_source({.seed = seed}, ""), layout, {.host = stored});
    stored_weights = bind_weights(layout, stored.data());
  }
  /// Weights that are not quantised keep all bits of fp32, so that the plan's roundings are all there is.
  static WeightForm form(const CoverCase& c) {
    WeightForm form{.precision = c.precision, .sparsity = c.sparsity};
    // Products of rows in 8 bits read every weight.
    form.zeros_stored = quantises_activations(form);
    return lossy(form) ? form : WeightForm{};
  }

  PlanRequest request() const {
    return {.config = cover.config,
            .weights = stored.empty() ? weights : stored_weights,
            .precision = cover.precision,
            .kv = cover.kv,
            .kernel = kernels::parse_kernel(cover.kernel),
            .batch = batch.size(),
            .source_tokens = batch.tokens(),
            .max_source = batch.longest,
            .capacity = kSteps,
            .auto_own_rows = lossy(form(cover)) ? kernels::kAutoWideRows : kernels::kAutoOwnRows};
  }

  uint64_t seed;  ///< of the weights
  CoverCase cover;
  HostWeights host;
  ModelWeights weights;
  std::vector<std::byte> stored = {};
  ModelWeights stored_weights = {};
  TransformerBatch batch;
};

inline void set_inputs(reference::PlanInterpreter& run, const StepPlan& plan, const TransformerBatch& batch) {
  run.set(plan_names::kSourceIds, batch.ids);
  run.set(plan_names::kSourceOffsets, batch.offsets);
  if (plan.capacity == 0) return;
  run.set(plan_names::kNextIds, std::vector<int32_t>(batch.size(), plan.config.decoder_start_id));
  run.set(plan_names::kTokens, std::vector<int32_t>(batch.size() * plan.capacity, plan.config.pad_id));
  run.set(plan_names::kPosition, std::vector<int32_t>{0});
  if (!plan.has(plan_names::kFinished)) return;
  run.set(plan_names::kFinished, std::vector<int32_t>(batch.size(), 0));
  run.set(plan_names::kRunning, std::vector<int32_t>{batch.size()});
}

/// What a plan computes: the encoder's output, and the logits of all steps.
struct Outputs {
  std::vector<float> encoder;
  std::vector<float> logits;
  std::vector<int32_t> tokens;
};

/// Teacher-forced with `fed` [batch, steps], so that one rounding that tips an arg-max does not end the comparison.
inline Outputs interpret(const StepPlan& plan, const TransformerBatch& batch, std::span<const int32_t> fed) {
  reference::PlanInterpreter run(plan);
  set_inputs(run, plan, batch);
  run.run(PlanSection::kEncoder);
  Outputs out;
  out.encoder = run.values(plan_names::kEncoderOutput);
  run.run(PlanSection::kCrossKv);
  for (int t = 0; t < kSteps; ++t) {
    if (t > 0) {
      std::vector<int32_t> ids(batch.size());
      for (int b = 0; b < batch.size(); ++b) ids[b] = fed[b * kSteps + t - 1];
      run.set(plan_names::kNextIds, ids);
    }
    run.run(PlanSection::kStep);
    out.logits.insert(out.logits.end(), run.logits().values.begin(), run.logits().values.end());
  }
  out.tokens = run.integers(plan_names::kTokens);
  return out;
}

/// Relative L2 error of the rows that are left when the worst eighth is put aside. Random post-norm models have rows whose
/// residual nearly cancels: rounding to 16 bits turns these into others, and says nothing of the plan.
inline double ordinary_error(std::span<const float> actual, std::span<const float> expected, int64_t cols) {
  struct Row {
    double error, size;
  };
  std::vector<Row> rows;
  for (size_t at = 0; at < expected.size(); at += static_cast<size_t>(cols)) {
    Row row{0, 0};
    for (size_t i = at; i < at + static_cast<size_t>(cols); ++i) {
      const double d = double{actual[i]} - expected[i];
      row.error += d * d;
      row.size += double{expected[i]} * expected[i];
    }
    if (!(row.error < std::numeric_limits<double>::infinity())) return row.error;
    rows.push_back(row);
  }
  std::ranges::sort(rows, std::less<>(), [](const Row& r) { return r.error / std::max(r.size, 1e-30); });
  rows.resize(rows.size() - rows.size() / 8);
  Row sum{0, 0};
  for (const Row& r : rows) sum = {sum.error + r.error, sum.size + r.size};
  return std::sqrt(sum.error / sum.size);
}

/// Relative L2 errors: of all rows in fp32, of ordinary ones in 16 bits.
struct Errors {
  double encoder = 0;
  double logits = 0;  ///< teacher-forced, all steps
};

/// What the reference computes of a case, and the tokens it is teacher-forced with.
struct Truth {
  std::vector<float> encoder;
  std::vector<float> logits;
  std::vector<int32_t> tokens;
};
inline reference::Numerics numerics_of(const CoverCase& c) {
  const DType kv = kv_dtype(c.precision, c.kv);
  return {.kv = dtype_bits(kv) == 8 ? kv : DType::kF32, .input_parts = c.degree};
}
inline Truth truth_of(const Fixture& f, const reference::Numerics& numerics) {
  const ModelConfig& config = f.cover.config;
  auto generated = reference::greedy_generate(
      config, f.weights, f.batch, {.max_tokens = kSteps, .keep_logits = true, .numerics = numerics});
  return {.encoder = reference::encoder_forward(config, f.weights.encoder, f.batch, numerics).values,
          .logits = std::move(generated.logits.values),
          .tokens = std::move(generated.tokens)};
}

/// What is to be compared: a case's plan, run with its fixture and the tokens that it is fed.
using Interpreted = std::function<Outputs(const Fixture&, std::span<const int32_t> fed)>;
inline Outputs whole_plan(const Fixture& f, std::span<const int32_t> fed) {
  return interpret(kernels::build_plan(f.request()), f.batch, fed);
}
/// Partial sums of one rank.
inline Outputs one_rank(const Fixture& f, std::span<const int32_t> fed) {
  PlanRequest request = f.request();
  request.slice = TensorSlice{};
  return interpret(kernels::build_plan(request), f.batch, fed);
}

/// Against the reference's forward pass.
inline Errors errors_of(const CoverCase& c, const Interpreted& run = whole_plan) {
  const Fixture f(c);
  const Truth truth = truth_of(f, numerics_of(c));
  const Outputs out = run(f, truth.tokens);
  if (activation_dtype(c.precision) == DType::kF32) {
    EXPECT_EQ(out.tokens, truth.tokens);
  }
  if (dtype_bits(activation_dtype(c.precision)) == 16) {
    return {ordinary_error(out.encoder, truth.encoder, c.config.d_model),
            ordinary_error(out.logits, truth.logits, c.config.vocab)};
  }
  return {relative_l2(out.encoder, truth.encoder), relative_l2(out.logits, truth.logits)};
}

/// How much the reference of a case changes when the inputs of its products are rounded to bf16 first.
inline Errors change_by_rounding(const CoverCase& c) {
  const Fixture f(c);
  reference::Numerics numerics = numerics_of(c);
  const Truth exact = truth_of(f, numerics);
  numerics.bf16_inputs = true;
  const reference::Matrix encoder =
      reference::encoder_forward(f.cover.config, f.weights.encoder, f.batch, numerics);
  const reference::Matrix logits =
      reference::forced_logits(f.cover.config, f.weights, f.batch, exact.tokens, kSteps, numerics);
  return {ordinary_error(encoder.values, exact.encoder, c.config.d_model),
          ordinary_error(logits.values, exact.logits, c.config.vocab)};
}

/// fp32 storage: equal but for the order of roundings. 16 bits: no worse than the other 16-bit type says of
/// the model (its unit is 8 times as large, or as small), for some random models turn roundings into errors
/// many times their size.
inline void expect_matches_reference(const CoverCase& c, const Interpreted& run = whole_plan) {
  SCOPED_TRACE(c.text);
  const Errors errors = errors_of(c, run);
  Errors bound{1e-5, 1e-5};
  if (dtype_bits(activation_dtype(c.precision)) == 16) {
    const bool fp16 = c.precision == Precision::kFp16;
    CoverCase other = c;
    other.precision = fp16 ? Precision::kBf16 : Precision::kFp16;
    const Errors theirs = errors_of(other, run);
    const double spec = fp16 ? 4e-3 : 2e-2;
    const double ratio = 10 * (fp16 ? 1.0 / 8 : 8.0);
    bound = {std::max(spec, ratio * theirs.encoder), std::max(spec, ratio * theirs.logits)};
    // Or no worse than what such roundings change in the reference.
    if (!fp16 && (errors.encoder > bound.encoder || errors.logits > bound.logits)) {
      const Errors change = change_by_rounding(c);
      bound = {std::max(bound.encoder, 4 * change.encoder), std::max(bound.logits, 4 * change.logits)};
    }
  }
  EXPECT_LE(errors.encoder, bound.encoder);
  EXPECT_LE(errors.logits, bound.logits);
}

/// The same of plans whose activations or K/V cache are quantised: no worse than such rounding.
inline void expect_matches_quantised(const CoverCase& c, const Interpreted& run = whole_plan) {
  SCOPED_TRACE(c.text);
  const Errors errors = errors_of(c, run);
  const Errors change = change_by_rounding(c);
  EXPECT_LE(errors.encoder, std::max(2e-2, 4 * change.encoder));
  EXPECT_LE(errors.logits, std::max(2e-2, 4 * change.logits));
}

inline CoverCase small_case() {
  CoverCase c;
  c.config = preset("tiny");
  c.lengths = {5, 1, 9};
  c.text = "tiny";
  return c;
}

}  // namespace tandem
