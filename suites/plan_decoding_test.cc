// Plans that choose tokens by a GenerationConfig, interpreted with the reference's operations: rows of a source, ancestry,
// rules and results must be wired so that whole decodings come out as the reference's.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <string>

#include "harness/base/error.h"
#include "harness/base/testing/test_seed.h"
#include "harness/weights/materialise.h"
#include "harness/weights/values/seeded.h"
#include "kernels/decoding/pack_rules.h"
#include "kernels/plan/builder.h"
#include "kernels/plan/kernel_check.h"
#include "reference/engine/plan_ranks.h"
#include "reference/model/decode.h"

namespace tandem {
namespace {

struct Fixture {
  Fixture() {
    config.encoder.heads = config.decoder.heads = 8;
    config.head_dim = 8;
    config.vocab = 131;
    load();
    batch = make_batch(config, {5, 1, 9}, test_seed());
    g.decoder_start_id = config.decoder_start_id;
    g.pad_id = config.pad_id;
    g.eos_ids = {config.eos_id};
    g.max_length = 8;
  }

  void load() {
    host = host_weights(config, WeightsSpec{.seed = 11});
    weights = host.weights();
  }

  kernels::PlanRequest request() const {
    return {.config = config,
            .weights = weights,
            .precision = Precision::kFp32,
            .batch = batch.size(),
            .source_tokens = batch.tokens(),
            .max_source = batch.longest,
            .capacity = g.max_length - 1,
            .generation = g};
  }
  StepPlan plan() const { return kernels::build_plan(request()); }

  ModelConfig config = preset("tiny");
  HostWeights host;
  ModelWeights weights;
  TransformerBatch batch;
  GenerationConfig g;
};

/// The plans of `degree` ranks, each with the weights that it alone holds.
struct Ranks {
  Ranks(const Fixture& f, int degree) {
    for (int rank = 0; rank < degree; ++rank) {
      const WeightForm form{.slice = {.degree = degree, .rank = rank}};
      hosts.push_back(host_weights(f.config, WeightsSpec{.seed = 11}, form));
      kernels::PlanRequest request = f.request();
      request.weights = hosts.back().weights();
      request.slice = form.slice;
      plans.push_back(kernels::build_plan(request));
    }
  }
  std::vector<HostWeights> hosts;
  std::vector<StepPlan> plans;
};

/// What an executor sets before the first step.
void start(reference::PlanInterpreter& run, const StepPlan& plan, const Fixture& f) {
  const auto rows = static_cast<size_t>(plan.batch * plan.rows_per_source);
  run.set(plan_names::kSourceIds, f.batch.ids);
  run.set(plan_names::kSourceOffsets, f.batch.offsets);
  run.set(plan_names::kNextIds, std::vector<int32_t>(rows, f.g.decoder_start_id));
  run.set(plan_names::kTokens, std::vector<int32_t>(rows * static_cast<size_t>(plan.capacity), f.g.pad_id));
  run.set(plan_names::kPosition, std::vector<int32_t>{0});
  run.set(plan_names::kFinished, std::vector<int32_t>(rows, 0));
  run.set(plan_names::kRunning, std::vector<int32_t>{static_cast<int32_t>(rows)});
  if (plan.has(plan_names::kRunningScores)) {  // only one of equal beams may be continued
    std::vector<float> scores(rows, -1e9f);
    for (size_t r = 0; r < rows; r += static_cast<size_t>(plan.rows_per_source)) scores[r] = 0;
    run.set(plan_names::kRunningScores, scores);
  }
  if (!plan.has(plan_names::kKeys)) return;
  std::vector<int32_t> keys;
  for (size_t r = 0; r < rows; ++r) {
    const auto per_source = static_cast<size_t>(plan.rows_per_source);
    const uint64_t key = kernels::sampling_key(f.g.seed + r / per_source, r % per_source);
    keys.push_back(static_cast<int32_t>(static_cast<uint32_t>(key)));
    keys.push_back(static_cast<int32_t>(static_cast<uint32_t>(key >> 32)));
  }
  run.set(plan_names::kKeys, keys);
}

void expect_decoded_as_reference(const Fixture& f, std::span<const StepPlan> plans) {
  const StepPlan& plan = plans.front();
  const auto want = reference::decode(f.config, f.weights, f.batch, f.g);
  reference::RankInterpreters ranks(plans);
  const reference::RankOrder order = reference::random_order(f.g.seed);
  for (int r = 0; r < ranks.size(); ++r) start(ranks.rank(r), plan, f);
  ranks.run(PlanSection::kEncoder, order);
  ranks.run(PlanSection::kCrossKv, order);
  for (int t = 0; t < plan.capacity && ranks.rank(0).integers(plan_names::kRunning)[0] > 0; ++t)
    ranks.run(PlanSection::kStep, order);
  reference::PlanInterpreter& run = ranks.rank(ranks.size() - 1);

  const bool beams = f.g.beams > 1;
  for (int s = 0; s < f.batch.size(); ++s) {
    for (size_t i = 0; i < want[static_cast<size_t>(s)].size(); ++i) {
      const reference::Hypothesis& h = want[static_cast<size_t>(s)][i];
      const int row = s * plan.rows_per_source + static_cast<int>(i);
      const PlanTensor line{.buffer = plan.find(beams ? plan_names::kHypotheses : plan_names::kTokens),
                            .offset = int64_t{row} * plan.capacity,
                            .rows = 1,
                            .cols = static_cast<int64_t>(h.tokens.size()),
                            .stride = plan.capacity};
      EXPECT_EQ(run.read_ints(line), h.tokens) << "source " << s << ", " << i;
      if (!beams) continue;
      const auto at = static_cast<size_t>(row);
      EXPECT_EQ(static_cast<size_t>(run.integers(plan_names::kLengths)[at]), h.tokens.size());
      EXPECT_NEAR(run.values(plan_names::kScores)[at], h.score, 1e-4);
    }
  }
}

void expect_decoded_as_reference(const Fixture& f) {
  const std::vector<StepPlan> whole = {f.plan()};
  expect_decoded_as_reference(f, whole);
  for (const int degree : {2, 8}) {
    SCOPED_TRACE(degree);
    const Ranks ranks(f, degree);
    expect_decoded_as_reference(f, ranks.plans);
  }
}

// Beams would read each other's caches, another source's keys, or search by other rules.
TEST(DecodingPlan, BeamsMatchTheReference) {
  Fixture f;
  f.g.beams = f.g.n_best = 3;
  f.g.no_repeat_ngram = 2;
  for (const EarlyStopping stop : {EarlyStopping::kFalse, EarlyStopping::kTrue, EarlyStopping::kNever}) {
    f.g.early_stopping = stop;
    expect_decoded_as_reference(f);
  }
}

// Samples of a source would share draws or caches, or the rules not reach the choice.
TEST(DecodingPlan, SamplesAndGreedyMatchTheReference) {
  Fixture f;
  f.g.repetition_penalty = 1.7;
  f.g.min_length = 4;
  expect_decoded_as_reference(f);
  f.g.sample = true;
  f.g.n_best = 4;
  f.g.top_k = 20;
  f.g.top_p = 0.9;
  f.g.seed = test_seed();
  expect_decoded_as_reference(f);
}

// Rules that some candidates of each rank cannot follow would give another choice than the whole vocabulary.
TEST(DecodingPlan, RanksRefuseWhatCandidatesCannotSay) {
  const auto refused = [](const char* what, const std::function<void(GenerationConfig&)>& edit) {
    Fixture f;
    edit(f.g);
    EXPECT_NO_THROW(f.plan());
    try {
      const Ranks ranks(f, 2);
      ADD_FAILURE() << what;
    } catch (const ImpossibleCase& error) {
      EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
    }
  };
  refused("top_k 0", [](GenerationConfig& g) {
    g.sample = true;
    g.top_k = 0;
  });
  refused("top_k 513 is not allowed; 1 to 512", [](GenerationConfig& g) {
    g.sample = true;
    g.top_k = 513;
  });
  refused("renormalise", [](GenerationConfig& g) { g.renormalise = true; });
  Fixture f;
  const Ranks ranks(f, 2);
  for (const StepPlan& plan : ranks.plans) EXPECT_NO_THROW(kernels::check_kernels(plan));
}

// The stored logits of many beams are the largest buffer: a plan that forgot the beams would be too small.
TEST(DecodingPlan, RowsAreBeamsTimesSources) {
  Fixture f;
  f.g.beams = 5;
  const StepPlan plan = f.plan();
  EXPECT_EQ(plan.buffer(plan_names::kNextIds).elements, 15);
  EXPECT_EQ(plan.buffer("decoder/0/self.k_cache").elements,
            int64_t{15} * f.config.decoder.heads * plan.capacity * f.config.head_dim);
  EXPECT_EQ(plan.buffer(plan_names::kSourceOffsets).elements, 4);
}

}  // namespace
}  // namespace tandem
