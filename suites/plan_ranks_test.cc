// Plans of the ranks of a tensor-parallel group, run together on a machine that needs no GPU, against the whole model.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/testing/test_seed.h"
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

}  // namespace
}  // namespace tandem
