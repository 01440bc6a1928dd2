// A model laid over ranks that are threads, against the whole model: each rank has its own weights and sees no other's.
#include "reference/ops/ranks.h"

#include <gtest/gtest.h>

#include <exception>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "harness/base/error.h"
#include "harness/engine/compare.h"
#include "harness/parallel/parallel.h"
#include "reference/model/beam_search.h"
#include "reference/model/decode.h"
#include "reference/model/encoder.h"
#include "reference/model/generate.h"
#include "reference/model/logits.h"
#include "reference/model/sampling.h"
#include "reference/model/test_model.h"
#include "reference/ops/dense.h"

namespace tandem::reference {
namespace {

/// Runs `body` once a rank, each in a thread, and gives what they return in the order of ranks.
template <typename T>
std::vector<T> on_ranks(int degree, const std::function<T(Communicator&)>& body) {
  const auto communicators = make_local_communicators(degree);
  std::vector<T> results(static_cast<size_t>(degree));
  std::vector<std::exception_ptr> errors(static_cast<size_t>(degree));
  {
    std::vector<std::jthread> threads;
    for (size_t r = 0; r < results.size(); ++r) {
      threads.emplace_back([&, r] {
        try {
          results[r] = body(*communicators[r]);
        } catch (...) {
          errors[r] = std::current_exception();
        }
      });
    }
  }
  for (const std::exception_ptr& e : errors) {
    if (e) std::rethrow_exception(e);
  }
  return results;
}

/// One rank's model.
struct RankModel {
  RankModel(const ModelConfig& whole, Communicator& ranks, const WeightForm& form = {})
      : config(rank_config(whole, ranks.size())), model(whole, run_seed(), sliced(form, ranks)) {
    numerics.ranks = &ranks;
  }
  static WeightForm sliced(WeightForm form, const Communicator& ranks) {
    form.slice = {.degree = ranks.size(), .rank = ranks.rank()};
    return form;
  }
  ModelConfig config;
  TestModel model;
  Numerics numerics;
};

/// Models that differ in all that a rank holds a part of.
std::vector<ModelConfig> configs() {
  ModelConfig t5 = small_config();
  t5.encoder = {.layers = 2, .heads = 8, .d_ff = 48};
  t5.decoder = {.layers = 2, .heads = 16, .d_ff = 24};
  t5.vocab = 131;
  t5.norm = Norm::kRms;
  t5.placement = NormPlacement::kPre;
  t5.final_norm = true;
  t5.position = Position::kRelative;
  t5.relative_buckets = 8;
  t5.relative_max_distance = 20;
  t5.gated = true;
  t5.bias = false;
  ModelConfig bart = t5;
  bart.norm = Norm::kLayer;
  bart.placement = NormPlacement::kPost;
  bart.final_norm = false;
  bart.embedding_norm = true;
  bart.position = Position::kLearned;
  bart.position_offset = 2;
  bart.max_positions = 64;
  bart.gated = false;
  bart.bias = bart.head_bias = true;
  bart.vocab = 257;
  ModelConfig bare = bart;  // pre-norm without a final norm
  bare.placement = NormPlacement::kPre;
  bare.embedding_norm = false;
  bare.position = Position::kSinusoidal;
  bare.position_offset = 0;
  return {t5, bart, bare};
}

constexpr int kSteps = 7;

// A head, column, row or bias that is on two ranks or on none; a sum in another order on another rank.
TEST(Ranks, TheWholeModelsResultsOnEveryRank) {
  for (const ModelConfig& config : configs()) {
    const TestModel whole(config, run_seed());
    const TransformerBatch source = make_batch(config, {5, 1, 9}, run_seed());
    const Matrix encoded = encoder_forward(config, whole.weights().encoder, source);
    const Generated want =
        greedy_generate(config, whole.weights(), source, {.max_tokens = kSteps, .keep_logits = true});
    const std::vector<int32_t> fed = test_tokens(config, source.size(), kSteps, run_seed());
    const Matrix forced = forced_logits(config, whole.weights(), source, fed, kSteps);
    for (const int degree : {1, 2, 4, 8}) {
      SCOPED_TRACE(std::to_string(degree) + " ranks, vocab " + std::to_string(config.vocab));
      struct Result {
        Matrix encoded, forced, uncached;
        Generated generated;
      };
      const auto results = on_ranks<Result>(degree, [&](Communicator& ranks) {
        const RankModel m(config, ranks);
        const ModelWeights w = m.model.weights();
        return Result{
            .encoded = encoder_forward(m.config, w.encoder, source, m.numerics),
            .forced = forced_logits(m.config, w, source, fed, kSteps, m.numerics),
            .uncached = forced_logits_uncached(m.config, w, source, fed, kSteps, m.numerics),
            .generated = greedy_generate(
                m.config, w, source, {.max_tokens = kSteps, .keep_logits = true, .numerics = m.numerics})};
      });
      const Result& first = results.front();
      EXPECT_TRUE(compare(first.encoded.values, encoded.values, config.d_model).within(1e-5));
      EXPECT_TRUE(compare(first.forced.values, forced.values, config.vocab).within(1e-5));
      EXPECT_TRUE(compare(first.uncached.values, forced.values, config.vocab).within(1e-5));
      EXPECT_TRUE(compare(first.generated.logits.values, want.logits.values, config.vocab).within(1e-5));
      EXPECT_EQ(first.generated.tokens, want.tokens);
      for (const Result& other : results) {
        EXPECT_EQ(other.encoded.values, first.encoded.values) << "bit for bit";
        EXPECT_EQ(other.forced.values, first.forced.values);
        EXPECT_EQ(other.generated.tokens, first.generated.tokens);
      }
    }
  }
}

// Choosing from a part of the vocabulary: rules that reach another rank's ids, a log-sum-exp of one rank, candidates of one
// rank alone, ties in another order.
TEST(Ranks, DecodeAsTheWholeModel) {
  std::vector<GenerationConfig> all;
  const auto add = [&](const std::function<void(GenerationConfig&)>& edit) {
    GenerationConfig g;
    g.eos_ids = {1, 77};
    g.max_length = 8;
    g.seed = run_seed();
    edit(g);
    all.push_back(g);
  };
  add([](GenerationConfig& g) {
    g.repetition_penalty = 1.7;
    g.no_repeat_ngram = 2;
    g.forced_bos_id = 99;
    g.suppressed = {5, 120};
    g.bad_words = {{7}, {3, 100}};
  });
  for (const bool again : {false, true}) {
    add([&](GenerationConfig& g) {
      g.beams = g.n_best = 3;
      g.no_repeat_ngram = 2;
      g.repetition_penalty = 1.3;
      g.renormalise = again;
      g.forced_eos_ids = {77};
    });
  }
  for (const auto& [top_k, top_p] :
       std::vector<std::pair<int, double>>{{0, 1}, {20, 1}, {0, 0.8}, {40, 0.9}, {500, 0.01}}) {
    add([&, k = top_k, p = top_p](GenerationConfig& g) {
      g.sample = true;
      g.n_best = 3;
      g.top_k = k;
      g.top_p = p;
      g.temperature = 1.3;
      g.min_length = 4;
    });
  }
  const ModelConfig config = configs().front();
  const TestModel whole(config, run_seed());
  const TransformerBatch source = make_batch(config, {5, 1}, run_seed());
  for (size_t i = 0; i < all.size(); ++i) {
    const auto want = decode(config, whole.weights(), source, all[i]);
    for (const int degree : {2, 8}) {
      using Found = std::vector<std::vector<Hypothesis>>;
      const auto results = on_ranks<Found>(degree, [&](Communicator& ranks) {
        const RankModel m(config, ranks);
        return decode(m.config, m.model.weights(), source, all[i], {}, m.numerics);
      });
      for (const Found& found : results) {
        ASSERT_EQ(found.size(), want.size());
        for (size_t s = 0; s < want.size(); ++s) {
          ASSERT_EQ(found[s].size(), want[s].size());
          for (size_t h = 0; h < want[s].size(); ++h) {
            EXPECT_EQ(found[s][h].tokens, want[s][h].tokens)
                << "rules " << i << ", " << degree << " ranks, seed " << run_seed();
            EXPECT_NEAR(found[s][h].score, want[s][h].score, 1e-4);
          }
        }
      }
    }
  }
}

// Equal scores on both sides of a border between ranks: the whole vocabulary's choice must not change.
TEST(Ranks, TiesAreBrokenAsInTheWholeVocabulary) {
  constexpr int kVocab = 40;
  std::vector<float> scores(kVocab, -3.0f);
  for (const int id : {9, 10, 19, 20, 31}) scores[static_cast<size_t>(id)] = 2.0f;
  for (const int id : {0, 11, 39}) scores[static_cast<size_t>(id)] = 1.0f;
  for (const int degree : {2, 4, 8}) {
    for (const auto& [top_k, top_p] : std::vector<std::pair<int, double>>{
             {0, 1}, {3, 1}, {6, 1}, {0, 0.5}, {0, 0.93}, {0, 0.01}, {7, 0.7}}) {
      GenerationConfig g;
      g.sample = true;
      g.top_k = top_k;
      g.top_p = top_p;
      const std::vector<double> want = sampling_distribution(g, scores);
      struct Result {
        std::vector<double> p;
        std::vector<int32_t> drawn;
      };
      const auto results = on_ranks<Result>(degree, [&](Communicator& ranks) {
        const int share = kVocab / degree;
        const VocabularyPart part{.first = int64_t{ranks.rank()} * share, .ranks = &ranks};
        Result r;
        r.p = sampling_distribution(
            g, std::span(scores).subspan(static_cast<size_t>(part.first), static_cast<size_t>(share)), part);
        for (int i = 0; i < 50; ++i) r.drawn.push_back(draw(r.p, (i + 0.37) / 50, part));
        return r;
      });
      std::vector<double> p;
      for (const Result& r : results) p.insert(p.end(), r.p.begin(), r.p.end());
      for (int id = 0; id < kVocab; ++id)
        EXPECT_NEAR(p[static_cast<size_t>(id)], want[static_cast<size_t>(id)], 1e-14)
            << "id " << id << " top_k " << top_k << " top_p " << top_p;
      for (int i = 0; i < 50; ++i)
        EXPECT_EQ(results.back().drawn[static_cast<size_t>(i)], draw(want, (i + 0.37) / 50));
    }
  }
}

// A rank that quantised its rows by another scale than the reference of the same degree, or the bias on every rank.
TEST(Ranks, ARankScalesItsOwnColumns) {
  const ModelConfig config = configs().at(1);
  const int degree = 4;
  const WeightForm form = WeightForm{.precision = Precision::kInt8}.in_fp32();
  const TestModel whole(config, run_seed(), form);
  const DenseWeight down = whole.weights().encoder.layers[0].ffn.down;
  ASSERT_TRUE(down.input_dtype);
  Matrix x(5, config.encoder.d_ff);
  for (size_t i = 0; i < x.values.size(); ++i)
    x.values[i] = static_cast<float>(uniform_below(run_seed(), i, 2001)) / 1000 - 1;
  Numerics parts;
  parts.input_parts = degree;
  const Matrix want = last_product(x, down, parts);
  const auto results = on_ranks<Matrix>(degree, [&](Communicator& ranks) {
    const RankModel m(config, ranks, form);
    const int64_t share = x.cols / degree;
    Matrix mine(x.rows, share);
    for (int64_t r = 0; r < x.rows; ++r) std::copy_n(x.row(r) + ranks.rank() * share, share, mine.row(r));
    return last_product(mine, m.model.weights().encoder.layers[0].ffn.down, m.numerics);
  });
  for (const Matrix& y : results) EXPECT_LE(relative_l2(y.values, want.values), 1e-6);
  EXPECT_GT(relative_l2(last_product(x, down, {}).values, want.values), 1e-5)
      << "one scale a row is another sum";
}

// An impossible split would be read past the end of a weight.
TEST(Ranks, ImpossibleSplitsAreRefused) {
  ModelConfig config = configs().front();
  config.encoder.heads = 6;
  EXPECT_THROW(rank_config(config, 4), ImpossibleCase);
  config = configs().front();
  config.decoder.d_ff = 29;
  EXPECT_THROW(rank_config(config, 2), ImpossibleCase);
  config = configs().front();
  config.vocab = 9;
  EXPECT_THROW(rank_config(config, 8), ImpossibleCase);
}

}  // namespace
}  // namespace tandem::reference
