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
#include "kernels/plan/step_forms.h"
#include "suites/testing/plan_fixture.h"

namespace tandem {
namespace {

// A builder that orders, wires or places anything wrong for some combination of the model's features.
TEST(Plan, MatchesReferenceOverCoveringArray) {
  const auto cases = kernels::covering_cases(
      test_seed(), {Precision::kFp32, Precision::kTf32, Precision::kFp16, Precision::kBf16});
  fmt::print("{} rows\n", cases.size());
  for (const CoverCase& c : cases) expect_matches_reference(c);
}

// A residual that got lost, was added twice or was added before the place where ranks reduce, for some combination of the
// model's features.
TEST(Plan, PartialSumsGiveTheSameResults) {
  for (const CoverCase& c : kernels::covering_cases(test_seed() + 1, {Precision::kFp32, Precision::kBf16})) {
    expect_matches_reference(c, one_rank);
    if (c.precision != Precision::kFp32) continue;
    const Fixture f(c);
    PlanRequest request = f.request();
    const std::vector<int32_t> fed(static_cast<size_t>(f.batch.size()) * kSteps, c.config.eos_id);
    const Outputs whole = interpret(kernels::build_plan(request), f.batch, fed);
    request.slice = TensorSlice{};
    const Outputs partial = interpret(kernels::build_plan(request), f.batch, fed);
    EXPECT_LE(relative_l2(partial.encoder, whole.encoder), 1e-5) << c.text;
    EXPECT_LE(relative_l2(partial.logits, whole.logits), 1e-5) << c.text;
  }
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

// A residual or a bias inside a product would be added once a rank by the all-reduce after it; a bias on no rank would be
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
        request.slice = TensorSlice{.degree = 2, .rank = rank};
        const StepPlan plan = kernels::build_plan(request);
        SCOPED_TRACE(plan_text(plan));
        int ends = 0;
        int added = 0;
        int sums = 0;
        int reduced = 0;
        for (const PlanOp& op : plan.ops) {
          if (const auto* norm = std::get_if<NormOp>(&op.body)) {
            EXPECT_TRUE(norm->residual.empty()) << "only a norm of reduced rows adds a residual";
          }
          if (const auto* comm = std::get_if<CommOp>(&op.body)) {
            reduced += comm->kind == CommKind::kAllReduce ? 1 : 0;
            added += comm->norm && !comm->norm->residual.empty() ? 1 : 0;
            sums += comm->norm && !comm->norm->sum.empty() ? 1 : 0;
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
        EXPECT_EQ(reduced, ends + 2) << "of each sublayer and of the embeddings of both sides";
        // The embeddings are a later residual too; the final norm of either side needs no sum.
        EXPECT_EQ(sums, placement == NormPlacement::kPre ? ends : 0);
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
  request.slice = TensorSlice{};
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

// A product whose activation the library lacks would keep its pass, or lose activation, gate, bias or residual; a card without the
// own kernel for many rows would be given it.
TEST(Plan, TiledProductsActivateThemselves) {
  const auto request_of = [](const Fixture& f, bool tiled, int64_t rows) {
    PlanRequest request = f.request();
    request.tiled = tiled;
    request.auto_tiled_rows = rows;
    return request;
  };
  struct Expected {
    const char* kernel;
    bool tiled;
    int64_t rows;
    int passes, products;  ///< of a layer
  };
  for (const bool gated : {false, true}) {
    CoverCase c = small_case();
    c.precision = Precision::kBf16;
    c.config.activation = Activation::kGelu;
    c.config.gated = gated;
    c.config.placement = gated ? NormPlacement::kPre : NormPlacement::kPost;
    c.config.final_norm = gated;
    c.lengths.assign(20, 4);
    for (const char* kernel : {"auto", "own"}) {
      c.kernel = kernel;
      expect_matches_reference(c, [&](const Fixture& f, std::span<const int32_t> fed) {
        return interpret(kernels::build_plan(request_of(f, true, 80)), f.batch, fed);
      });
    }
    const int layers = c.config.encoder.layers;
    for (const Expected& e : {Expected{"auto", true, 80, gated ? 1 : 0, gated ? 0 : 1},
                              Expected{"auto", true, 81, 1, 0}, Expected{"auto", false, 80, 1, 0},
                              Expected{"library", true, 80, 1, 0}, Expected{"own", true, 81, 0, 4}}) {
      c.kernel = e.kernel;
      const StepPlan plan = kernels::build_plan(request_of(Fixture(c), e.tiled, e.rows));
      int passes = 0, products = 0;
      const OpRange encoder = plan.section(PlanSection::kEncoder);
      for (int op = encoder.first; op < encoder.last; ++op) {
        passes += std::holds_alternative<ActivationOp>(plan.ops[op].body) ? 1 : 0;
        const auto* dense = std::get_if<DenseOp>(&plan.ops[op].body);
        products += dense != nullptr && dense->kernel == DenseKernel::kTiled ? 1 : 0;
      }
      EXPECT_EQ(passes, e.passes * layers) << e.kernel << "\n" << plan_text(plan);
      EXPECT_EQ(products, e.products * layers) << e.kernel << "\n" << plan_text(plan);
    }
  }
}

// A kind of product that the step leaves to the library would break the residual stream or the norms beside it.
TEST(Plan, AnyKindOfTheStepMayBeSwitched) {
  const auto cases = kernels::covering_cases(test_seed() + 2, {Precision::kFp32, Precision::kBf16});
  const kernels::StepForm kinds{PhaseKind::kSelfQkv,  PhaseKind::kSelfOut, PhaseKind::kCrossQkv,
                                PhaseKind::kCrossOut, PhaseKind::kFfnUp,   PhaseKind::kFfnDown,
                                PhaseKind::kHead};
  for (size_t i = 0; i < cases.size(); i += 3) {
    if (cases[i].kernel != "auto") continue;
    kernels::StepForm form{kinds[i % kinds.size()]};
    if (i % 2 == 1) form.push_back(kinds[(i * i + 3) % kinds.size()]);
    expect_matches_reference(cases[i], [&](const Fixture& f, std::span<const int32_t> fed) {
      PlanRequest request = f.request();
      request.step_form = form;
      return interpret(kernels::build_plan(request), f.batch, fed);
    });
  }
}

// Above the threshold each layer's cross keys and values are a matrix of their own.
TEST(Plan, CrossKeysValuesByLayerAboveThreshold) {
  CoverCase c = small_case();
  c.lengths.assign(3, 700);
  const Fixture f(c);
  const StepPlan plan = kernels::build_plan(f.request());
  EXPECT_TRUE(plan.has("decoder/1/cross.kv"));
  EXPECT_FALSE(plan.has("decoder/cross.kv"));
  // One token's keys and values of all layers are 98 and 393 KB.
  for (const auto& [name, by_layer] : {std::pair{"t5-large", false}, {"t5-3b", true}}) {
    const ModelConfig config = preset(name);
    const ModelWeights weights = bind_weights(weight_layout(config, {.precision = Precision::kBf16}),
                                              reinterpret_cast<const void*>(4096));  // never read
    const StepPlan wide = kernels::build_plan(
        {.config = config, .weights = weights, .source_tokens = 128, .max_source = 128, .capacity = 128});
    EXPECT_EQ(wide.has("decoder/1/cross.kv"), by_layer) << name;
    EXPECT_EQ(wide.has("decoder/cross.kv"), !by_layer) << name;
  }
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
