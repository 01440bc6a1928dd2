// Plans of the ranks of a tensor-parallel group, run together on a machine that needs no GPU, against the whole model.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/testing/test_seed.h"
#include "harness/run/validate.h"
#include "reference/engine/plan_ranks.h"
#include "suites/testing/plan_fixture.h"

namespace tandem {
namespace {

using reference::RankInterpreters;
using reference::RankOrder;

/// A model laid over ranks, each with the weights that it alone holds.
struct Group {
  Group(const Fixture& f, int degree, const PlanRequest& whole) {
    for (int rank = 0; rank < degree; ++rank) {
      WeightForm form = Fixture::form(f.cover);
      form.slice = {.degree = degree, .rank = rank};
      const WeightLayout layout = weight_layout(f.cover.config, form);
      std::vector<std::byte>& arena = arenas.emplace_back(static_cast<size_t>(layout.bytes));
      materialise(*weight_source({.seed = f.seed}, ""), layout, {.host = arena});
      PlanRequest request = whole;
      request.weights = bind_weights(layout, arena.data());
      request.slice = form.slice;
      plans.push_back(kernels::build_plan(request));
    }
  }
  std::vector<std::vector<std::byte>> arenas;
  std::vector<StepPlan> plans;
};

/// As interpret(), of all ranks; each must have the same encoder's output and the same tokens, bit for bit.
Outputs interpret(const Group& g, const TransformerBatch& batch, std::span<const int32_t> fed,
                  const RankOrder& order) {
  RankInterpreters run(g.plans);
  for (int r = 0; r < run.size(); ++r) set_inputs(run.rank(r), g.plans.front(), batch);
  run.run(PlanSection::kEncoder, order);
  Outputs out;
  out.encoder = run.rank(0).values(plan_names::kEncoderOutput);
  run.run(PlanSection::kCrossKv, order);
  for (int t = 0; t < kSteps; ++t) {
    if (t > 0 && !fed.empty()) {
      std::vector<int32_t> ids;
      for (int b = 0; b < batch.size(); ++b) ids.push_back(fed[b * kSteps + t - 1]);
      for (int r = 0; r < run.size(); ++r) run.rank(r).set(plan_names::kNextIds, ids);
    }
    run.run(PlanSection::kStep, order);
    const reference::Matrix logits = run.logits();
    out.logits.insert(out.logits.end(), logits.values.begin(), logits.values.end());
  }
  out.tokens = run.rank(0).integers(plan_names::kTokens);
  for (int r = 1; r < run.size(); ++r) {
    EXPECT_EQ(run.rank(r).values(plan_names::kEncoderOutput), out.encoder) << "rank " << r;
    EXPECT_EQ(run.rank(r).integers(plan_names::kTokens), out.tokens) << "rank " << r;
  }
  return out;
}

CoverCase small_ranks_case() {
  CoverCase c = small_case();
  c.config.encoder.heads = c.config.decoder.heads = 8;
  c.config.head_dim = 4;
  c.config.vocab = 131;
  c.config.bias = c.config.head_bias = true;
  return c;
}

// The result must not depend on which rank comes first: an operation that read what another rank had not yet brought, or that
// it had overwritten, would show in some order.
TEST(PlanRanks, EveryOrderGivesTheSameBits) {
  const uint64_t seed = test_seed();
  std::vector<CoverCase> cases;
  for (const NormPlacement placement : {NormPlacement::kPre, NormPlacement::kPost}) {
    CoverCase& c = cases.emplace_back(small_ranks_case());
    c.config.placement = placement;
    c.config.final_norm = true;
    c.config.gated = placement == NormPlacement::kPre;
    c.config.position = c.config.gated ? Position::kRelative : Position::kSinusoidal;
  }
  for (const CoverCase& c : cases) {
    const Fixture f(c);
    const Truth truth = truth_of(f, {});
    for (const int degree : {2, 4, 8}) {
      SCOPED_TRACE(degree);
      const Group g(f, degree, f.request());
      const Outputs first = interpret(g, f.batch, {}, reference::forward_order());
      EXPECT_LE(relative_l2(first.encoder, truth.encoder), 1e-5);
      EXPECT_LE(relative_l2(first.logits, truth.logits), 1e-5);
      EXPECT_EQ(first.tokens, truth.tokens);
      std::vector<RankOrder> orders = {reference::reverse_order()};
      for (uint64_t i = 0; i < 20; ++i) orders.push_back(reference::random_order(seed + i));
      for (const RankOrder& order : orders) {
        const Outputs other = interpret(g, f.batch, {}, order);
        EXPECT_EQ(other.encoder, first.encoder);
        EXPECT_EQ(other.logits, first.logits);
        EXPECT_EQ(other.tokens, first.tokens);
      }
    }
  }
}

/// The case's degree of ranks, stepped in an order of its own.
Outputs all_ranks(const Fixture& f, std::span<const int32_t> fed) {
  const Group g(f, f.cover.degree, f.request());
  return interpret(g, f.batch, fed, reference::random_order(f.cover.lengths.size()));
}

/// No token of the plan's choice is wrong by the logits along its own tokens.
void expect_no_wrong_token(const CoverCase& c) {
  const Fixture f(c);
  const Group g(f, c.degree, f.request());
  const Outputs own = interpret(g, f.batch, {}, reference::reverse_order());
  std::vector<int32_t> fed;
  for (int b = 0; b < f.batch.size(); ++b) {
    fed.push_back(c.config.decoder_start_id);
    fed.insert(fed.end(), own.tokens.begin() + b * kSteps, own.tokens.begin() + (b + 1) * kSteps - 1);
  }
  const int64_t rows = int64_t{kSteps} * f.batch.size();
  const auto output = [&](std::vector<float> logits) {
    return Output{.values = std::move(logits), .rows = rows, .cols = c.config.vocab, .tokens = {}};
  };
  const TokenComparison tokens = compare_tokens(
      {.tokens = own.tokens, .batch = f.batch.size(), .steps = kSteps, .stride = kSteps}, output(own.logits),
      output(reference::forced_logits(c.config, f.weights, f.batch, fed, kSteps, numerics_of(c)).values));
  EXPECT_EQ(tokens.compared, rows);
  EXPECT_EQ(tokens.wrong, 0) << tokens.where;
}

const std::vector<int> kDegrees = {1, 2, 4, 8};

// A rule of the sharding that is wrong for some combination of the model's features.
TEST(PlanRanks, MatchTheWholeModelOverTheCoveringArray) {
  const auto cases = kernels::covering_cases(test_seed() + 7, {Precision::kFp32, Precision::kBf16},
                                             {KvType::kSame}, kDegrees);
  fmt::print("{} rows\n", cases.size());
  for (const CoverCase& c : cases) {
    SCOPED_TRACE(c.text);
    expect_matches_reference(c, all_ranks);
    if (c.precision == Precision::kFp32) expect_no_wrong_token(c);
  }
}

// Codes whose scales are a rank's own and not the whole matrix's; rows that end a sublayer with another scale than the rank's
// columns have.
TEST(PlanRanks, FormatsMatchTheWholeModelInTheSameFormat) {
  int impossible = 0, rows = 0;
  for (const CoverCase& c : kernels::covering_cases(
           test_seed() + 8, {Precision::kFp8, Precision::kInt8, Precision::kW8a16, Precision::kW4a16},
           {KvType::kSame, KvType::kInt8}, kDegrees)) {
    SCOPED_TRACE(c.text);
    ++rows;
    try {
      const Fixture f(c);
      const Group possible(f, c.degree, f.request());
    } catch (const ImpossibleCase& error) {
      EXPECT_EQ(c.precision, Precision::kW4a16) << error.what();
      EXPECT_NE(std::string(error.what()).find("two groups"), std::string::npos) << error.what();
      ++impossible;
      continue;
    }
    expect_matches_quantised(c, all_ranks);
  }
  EXPECT_LT(impossible, rows / 4);
}

// A split that does not divide would lose heads or columns in silence, or be found by a kernel.
TEST(PlanRanks, ImpossibleSplitsNameTheField) {
  const auto refused = [](const char* what, const std::function<void(ModelConfig&)>& edit) {
    CoverCase c = small_ranks_case();
    edit(c.config);
    const Fixture f(c);
    PlanRequest request = f.request();
    request.slice = TensorSlice{.degree = 8, .rank = 0};
    try {
      kernels::build_plan(request);
      ADD_FAILURE() << what;
    } catch (const ImpossibleCase& error) {
      EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
    }
  };
  refused("heads 12", [](ModelConfig& m) { m.encoder.heads = 12; });
  refused("d_ff 100", [](ModelConfig& m) { m.decoder.d_ff = 100; });
  refused("vocab 9", [](ModelConfig& m) { m.vocab = 9; });
}

// Ranks that do not do the same would wait for each other for ever, or add what does not belong together.
TEST(PlanRanks, PlansThatDoNotMeetAreRefused) {
  const Fixture f(small_ranks_case());
  Group g(f, 2, f.request());
  const auto said = [&](const std::vector<StepPlan>& plans) {
    try {
      RankInterpreters run(plans);
      for (int r = 0; r < run.size(); ++r) set_inputs(run.rank(r), plans.front(), f.batch);
      run.run(PlanSection::kEncoder, reference::forward_order());
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  ASSERT_EQ(said(g.plans), "");
  EXPECT_NE(said({g.plans[1], g.plans[0]}).find("rank 1 of 2"), std::string::npos);
  std::vector<StepPlan> other = g.plans;
  for (PlanOp& op : other[1].ops) {
    if (auto* comm = std::get_if<CommOp>(&op.body)) {
      comm->x.rows -= 1;
      comm->y.rows -= comm->y.empty() ? 0 : 1;
    }
  }
  EXPECT_NE(said(other).find("do not bring the same"), std::string::npos) << said(other);
  other = g.plans;
  other[1].buffers.back().offset_bytes += kPlanAlignment;
  EXPECT_NE(said(other).find("another place"), std::string::npos) << said(other);
  other = g.plans;
  // Rank 1 meets nobody: its first meeting is an activation in place of what it was.
  for (PlanOp& op : other[1].ops) {
    if (const auto* comm = std::get_if<CommOp>(&op.body); comm != nullptr && comm->norm) {
      NormOp norm = *comm->norm;
      op.body = norm;
      break;
    }
  }
  EXPECT_NE(said(other).find("waits at"), std::string::npos) << said(other);
  reference::PlanInterpreter alone(g.plans[0]);
  set_inputs(alone, g.plans[0], f.batch);
  EXPECT_THROW(alone.run(PlanSection::kEncoder), Error);
}

}  // namespace
}  // namespace tandem
