// The plan of the CUDA engine, interpreted with the reference's operations on a machine that needs no GPU.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <span>
#include <string>

#include "harness/base/error.h"
#include "harness/base/testing/test_seed.h"
#include "harness/engine/compare.h"
#include "harness/model/batch.h"
#include "harness/weights/materialise.h"
#include "harness/weights/values/seeded.h"
#include "kernels/plan/builder.h"
#include "kernels/plan/testing/model_cover.h"
#include "reference/engine/plan_interpreter.h"
#include "reference/model/decoder.h"
#include "reference/model/encoder.h"
#include "reference/model/generate.h"

namespace tandem {
namespace {

using kernels::CoverCase;
using kernels::PlanRequest;

constexpr int kSteps = 5;

/// A model with seeded weights and a batch on the host: the case's values in fp32, and stored as an engine stores them where
/// the case quantises them.
struct Fixture {
  explicit Fixture(const CoverCase& c, uint64_t seed = 7)
      : cover(c), host(host_weights(c.config, WeightsSpec{.seed = seed}, form(c))), weights(host.weights()) {
    batch = make_batch(c.config, c.lengths, seed);
    if (!lossy(form(c))) return;
    const WeightLayout layout = weight_layout(c.config, form(c));
    stored.resize(static_cast<size_t>(layout.bytes));
    materialise(*weight_source({.seed = seed}, ""), layout, {.host = stored});
    stored_weights = bind_weights(layout, stored.data());
  }
  /// Weights that are not quantised keep all bits of fp32, so that the plan's roundings are all there is.
  static WeightForm form(const CoverCase& c) {
    const WeightForm form{.precision = c.precision};
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
            .max_source = batch.max_length,
            .capacity = kSteps};
  }

  CoverCase cover;
  HostWeights host;
  ModelWeights weights;
  std::vector<std::byte> stored = {};
  ModelWeights stored_weights = {};
  TransformerBatch batch;
};

void set_inputs(reference::PlanInterpreter& run, const StepPlan& plan, const TransformerBatch& batch) {
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
Outputs interpret(const StepPlan& plan, const TransformerBatch& batch, std::span<const int32_t> fed) {
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
double ordinary_error(std::span<const float> actual, std::span<const float> expected, int64_t cols) {
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
reference::Numerics numerics_of(const CoverCase& c) {
  const DType kv = kv_dtype(c.precision, c.kv);
  return {.kv = dtype_bits(kv) == 8 ? kv : DType::kF32};
}
Truth truth_of(const Fixture& f, const reference::Numerics& numerics) {
  const ModelConfig& config = f.cover.config;
  auto generated = reference::greedy_generate(
      config, f.weights, f.batch, {.max_tokens = kSteps, .keep_logits = true, .numerics = numerics});
  return {.encoder = reference::encoder_forward(config, f.weights.encoder, f.batch, numerics).values,
          .logits = std::move(generated.logits.values),
          .tokens = std::move(generated.tokens)};
}

/// Of the case's plan, with whole sublayers or partial sums, against the reference's forward pass.
Errors errors_of(const CoverCase& c, bool partial_sums = false) {
  const Fixture f(c);
  PlanRequest request = f.request();
  request.partial_sums = partial_sums;
  const StepPlan plan = kernels::build_plan(request);
  const Truth truth = truth_of(f, numerics_of(c));
  const Outputs out = interpret(plan, f.batch, truth.tokens);
  if (plan.buffer(plan_names::kEncoderOutput).dtype == DType::kF32) {
    EXPECT_EQ(out.tokens, truth.tokens);
  }
  if (dtype_bits(activation_dtype(c.precision)) == 16) {
    return {ordinary_error(out.encoder, truth.encoder, c.config.d_model),
            ordinary_error(out.logits, truth.logits, c.config.vocab)};
  }
  return {relative_l2(out.encoder, truth.encoder), relative_l2(out.logits, truth.logits)};
}

/// fp32 storage: equal but for the order of roundings. 16 bits: no worse than the other 16-bit type says of
/// the model (its unit is 8 times as large, or as small), for some random models turn roundings into errors
/// many times their size.
void expect_matches_reference(const CoverCase& c, bool partial_sums = false) {
  SCOPED_TRACE(c.text);
  const Errors errors = errors_of(c, partial_sums);
  Errors bound{1e-5, 1e-5};
  if (dtype_bits(activation_dtype(c.precision)) == 16) {
    const bool fp16 = c.precision == Precision::kFp16;
    CoverCase other = c;
    other.precision = fp16 ? Precision::kBf16 : Precision::kFp16;
    const Errors theirs = errors_of(other, partial_sums);
    const double spec = fp16 ? 4e-3 : 2e-2;
    const double ratio = 10 * (fp16 ? 1.0 / 8 : 8.0);
    bound = {std::max(spec, ratio * theirs.encoder), std::max(spec, ratio * theirs.logits)};
  }
  EXPECT_LE(errors.encoder, bound.encoder);
  EXPECT_LE(errors.logits, bound.logits);
}

// A builder that orders, wires or places anything wrong for some combination of the model's features.
TEST(Plan, MatchesReferenceOverCoveringArray) {
  const auto cases = kernels::covering_cases(
      test_seed(), {Precision::kFp32, Precision::kTf32, Precision::kFp16, Precision::kBf16});
  fmt::print("{} rows\n", cases.size());
  for (const CoverCase& c : cases) expect_matches_reference(c);
}

// A builder that wires codes, scales or row maxima wrong for some combination of the model's features, or reads stored weights
// by another layout than they have.
TEST(Plan, WeightOnlyFormatsMatchTheReferenceOfTheirValues) {
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
TEST(Plan, QuantisedActivationsMatchTheReferenceInTheSameFormat) {
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

// A residual that got lost, was added twice or was added before the place where ranks reduce, for some combination of the
// model's features.
TEST(Plan, PartialSumsGiveTheSameResults) {
  for (const CoverCase& c : kernels::covering_cases(test_seed() + 1, {Precision::kFp32, Precision::kBf16})) {
    expect_matches_reference(c, true);
    if (c.precision != Precision::kFp32) continue;
    const Fixture f(c);
    PlanRequest request = f.request();
    const std::vector<int32_t> fed(static_cast<size_t>(f.batch.size()) * kSteps, c.config.eos_id);
    const Outputs whole = interpret(kernels::build_plan(request), f.batch, fed);
    request.partial_sums = true;
    const Outputs partial = interpret(kernels::build_plan(request), f.batch, fed);
    EXPECT_LE(relative_l2(partial.encoder, whole.encoder), 1e-5) << c.text;
    EXPECT_LE(relative_l2(partial.logits, whole.logits), 1e-5) << c.text;
  }
}

CoverCase small_case() {
  CoverCase c;
  c.config = preset("tiny");
  c.lengths = {5, 1, 9};
  c.text = "tiny";
  return c;
}

// Sequences that end would go on, or their caches be read, or the count of running ones be wrong.
TEST(Plan, StopsAtEos) {
  CoverCase c = small_case();
  Fixture f(c);
  const auto free_run = reference::greedy_generate(c.config, f.weights, f.batch, {.max_tokens = kSteps});
  f.cover.config.eos_id = free_run.tokens[1];  // the first sequence ends at its second token
  PlanRequest request = f.request();
  request.stop_at_eos = true;
  const StepPlan plan = kernels::build_plan(request);
  const auto truth = reference::greedy_generate(f.cover.config, f.weights, f.batch,
                                                {.max_tokens = kSteps, .stop_at_eos = true});
  reference::PlanInterpreter run(plan);
  set_inputs(run, plan, f.batch);
  run.run(PlanSection::kEncoder);
  run.run(PlanSection::kCrossKv);
  int running = f.batch.size();
  for (int t = 0; t < kSteps && running > 0; ++t) {
    run.run(PlanSection::kStep);
    const int expected = static_cast<int>(
        std::count_if(truth.lengths.begin(), truth.lengths.end(), [&](int32_t n) { return n > t + 1; }));
    // The reference counts a sequence that ends exactly at the last step as complete, not as ended.
    running = run.integers(plan_names::kRunning)[0];
    if (t + 1 < kSteps) {
      EXPECT_EQ(running, expected) << "step " << t;
    }
  }
  EXPECT_EQ(run.integers(plan_names::kTokens), truth.tokens);
}

// Pre-norm without a norm at the end: what leaves the layers is a bare sum.
TEST(Plan, PreNormWithoutFinalNorm) {
  CoverCase c = small_case();
  c.config.placement = NormPlacement::kPre;
  c.config.final_norm = false;
  for (const bool embedding_norm : {false, true}) {
    c.config.embedding_norm = embedding_norm;
    expect_matches_reference(c);
  }
}

bool ends_sublayer(const PlanOp& op) {
  const PhaseKind kind = op.phase.kind;
  return kind == PhaseKind::kSelfOut || kind == PhaseKind::kCrossOut || kind == PhaseKind::kFfnDown;
}

// A residual or a bias inside a product would be added once a rank by the all-reduce behind it; a bias on no rank would be
// missing.
TEST(Plan, PartialSumsLeaveResidualsToNormsAndBiasesToOneRank) {
  for (const NormPlacement placement : {NormPlacement::kPre, NormPlacement::kPost}) {
    for (const char* kernel : {"own", "library"}) {
      for (const int rank : {0, 1}) {
        CoverCase c = small_case();
        c.kernel = kernel;
        c.config.placement = placement;
        c.config.final_norm = true;
        c.config.bias = true;
        const Fixture f(c);
        PlanRequest request = f.request();
        request.partial_sums = true;
        request.rank = rank;
        const StepPlan plan = kernels::build_plan(request);
        SCOPED_TRACE(plan_text(plan));
        int ends = 0;
        int added = 0;
        int sums = 0;
        for (const PlanOp& op : plan.ops) {
          if (const auto* norm = std::get_if<NormOp>(&op.body)) {
            added += norm->residual.empty() ? 0 : 1;
            sums += norm->sum.empty() ? 0 : 1;
          }
          const auto* dense = std::get_if<DenseOp>(&op.body);
          if (dense == nullptr) continue;
          EXPECT_TRUE(dense->residual.empty());
          EXPECT_EQ(dense->weight.bias.empty(),
                    (rank == 1 && ends_sublayer(op)) || op.phase.kind == PhaseKind::kHead);
          ends += ends_sublayer(op) ? 1 : 0;
        }
        EXPECT_EQ(ends, 2 * c.config.encoder.layers + 3 * c.config.decoder.layers);
        EXPECT_EQ(added, ends) << "each residual is added by one norm";
        // The final norm of either side needs no sum.
        EXPECT_EQ(sums, placement == NormPlacement::kPre ? ends - 2 : 0);
      }
    }
  }
}

// The last residual would be dropped in silence.
TEST(Plan, PartialSumsOfAPreNormModelNeedAFinalNorm) {
  CoverCase c = small_case();
  c.config.placement = NormPlacement::kPre;
  c.config.final_norm = false;
  const Fixture f(c);
  PlanRequest request = f.request();
  request.partial_sums = true;
  try {
    kernels::build_plan(request);
    ADD_FAILURE() << "a plan was built";
  } catch (const ImpossibleCase& error) {
    EXPECT_NE(std::string(error.what()).find("final_norm"), std::string::npos) << error.what();
  }
}

// Batches beyond the skinny kernels (over 64 rows) take another path through every product, norm and head.
TEST(Plan, LargeBatchMatchesReference) {
  CoverCase c = small_case();
  c.lengths.assign(70, 2);
  c.lengths[3] = 1;
  expect_matches_reference(c);
}

// Above the threshold each layer's cross keys and values are a matrix of their own.
TEST(Plan, CrossKeysValuesByLayerAboveThreshold) {
  CoverCase c = small_case();
  c.lengths.assign(3, 700);
  const Fixture f(c);
  const StepPlan plan = kernels::build_plan(f.request());
  EXPECT_TRUE(plan.has("decoder/1/cross.kv"));
  EXPECT_FALSE(plan.has("decoder/cross.kv"));
}

// The claim of eight dependent kernels a decoder layer, embedding and head beside them.
TEST(Plan, DecodeStepHasEightOperationsALayer) {
  for (const char* name : {"transformer-big", "t5-large", "bart-large"}) {
    const ModelConfig config = preset(name);
    // Views are never read, so any address will do.
    const ModelWeights weights = bind_weights(weight_layout(config, {.precision = Precision::kBf16}),
                                              reinterpret_cast<const void*>(4096));
    const StepPlan plan = kernels::build_plan(
        {.config = config, .weights = weights, .source_tokens = 128, .max_source = 128, .capacity = 128});
    const OpRange step = plan.section(PlanSection::kStep);
    EXPECT_EQ(step.last - step.first, 8 * config.decoder.layers + 2) << name << "\n" << plan_text(plan);
  }
}

// Scratch that is not reused would make a deep model's plan as large as all its activations together.
TEST(Plan, ScratchDoesNotGrowWithLayers) {
  const auto scratch_bytes = [](int layers) {
    ModelConfig config = preset("transformer-big");
    config.encoder.layers = layers;
    const ModelWeights weights = bind_weights(weight_layout(config, {.precision = Precision::kBf16}),
                                              reinterpret_cast<const void*>(4096));
    return kernels::build_plan(
               {.config = config, .weights = weights, .batch = 8, .source_tokens = 1024, .max_source = 128})
        .arena_bytes;
  };
  EXPECT_EQ(scratch_bytes(2), scratch_bytes(24));
}

/// A plan to break.
struct Broken {
  Broken() : fixture(small_case()), plan(kernels::build_plan(fixture.request())) {}
  int scratch(int skip) const {
    for (size_t i = 0; i < plan.buffers.size(); ++i) {
      const PlanBuffer& b = plan.buffers[i];
      if (b.role == BufferRole::kScratch && b.last_op > b.first_op && skip-- == 0) return static_cast<int>(i);
    }
    ADD_FAILURE() << "no scratch buffer";
    return 0;
  }
  Fixture fixture;
  StepPlan plan;
};

// The checks of a plan that never fail check nothing.
TEST(PlanCheck, RefusesSharedMemoryWrongLifetimesAndOrder) {
  {
    Broken b;
    const PlanBuffer& first = b.plan.buffers[b.scratch(0)];
    for (PlanBuffer& other : b.plan.buffers) {
      if (&other != &first && other.role == BufferRole::kState) other.offset_bytes = first.offset_bytes;
    }
    EXPECT_THROW(check_plan(b.plan), Error);
  }
  {
    Broken b;
    b.plan.buffers[b.scratch(1)].last_op -= 1;
    EXPECT_THROW(check_plan(b.plan), Error);
  }
  {
    Broken b;
    std::swap(b.plan.ops[2], b.plan.ops[3]);
    find_lifetimes(b.plan);
    EXPECT_THROW(check_plan(b.plan), Error);
  }
  {
    Broken b;
    b.plan.arena_bytes -= 1;
    EXPECT_THROW(check_plan(b.plan), Error);
  }
}

// An interpreter that does not see wrong plans proves nothing about right ones.
TEST(PlanInterpreter, SeesDeadAndUnwrittenMemory) {
  Broken b;
  reference::PlanInterpreter run(b.plan);
  EXPECT_THROW(run.run(PlanSection::kEncoder), Error) << "no ids were set";
  set_inputs(run, b.plan, b.fixture.batch);
  b.plan.buffers[b.scratch(1)].last_op -= 1;
  EXPECT_THROW(run.run(PlanSection::kEncoder), Error) << "a buffer died before its last reader";
}

// Two live buffers in one place: no poison is read, but the result must be visibly wrong.
TEST(PlanInterpreter, SharedMemoryGivesAWrongResult) {
  Broken b;
  const reference::Matrix encoded =
      reference::encoder_forward(b.fixture.cover.config, b.fixture.weights.encoder, b.fixture.batch);
  // The first layer's residual and the projections made from it live together.
  PlanBuffer& x = b.plan.buffers[b.scratch(0)];
  PlanBuffer& qkv = b.plan.buffers[b.scratch(1)];
  ASSERT_LE(x.first_op, qkv.last_op);
  x.offset_bytes = qkv.offset_bytes;
  reference::PlanInterpreter run(b.plan);
  set_inputs(run, b.plan, b.fixture.batch);
  bool caught = false;
  try {
    run.run(PlanSection::kEncoder);
    caught = !(relative_l2(run.values(plan_names::kEncoderOutput), encoded.values) < 1e-5);
  } catch (const Error&) {
    caught = true;
  }
  EXPECT_TRUE(caught);
}

}  // namespace
}  // namespace tandem
