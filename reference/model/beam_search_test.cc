// Beam search over tables written by hand, and against the search of every sequence.
#include "reference/model/beam_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "harness/base/error.h"
#include "harness/base/random.h"
#include "harness/base/testing/test_seed.h"
#include "reference/model/decode.h"
#include "reference/model/generate.h"
#include "reference/model/logits.h"
#include "reference/model/test_model.h"

namespace tandem::reference {
namespace {

using Ids = std::vector<int32_t>;

constexpr int32_t kEos = 1;

GenerationConfig beams(int count, int max_new) {
  GenerationConfig g;
  g.eos_ids = {kEos};
  g.beams = count;
  g.max_length = max_new + 1;
  return g;
}

/// A "model" whose next scores depend on all tokens so far; it checks that parents and ids are consistent.
class Table {
 public:
  Table(int vocab, std::function<std::vector<float>(const Ids&)> scores)
      : vocab_(vocab), scores_(std::move(scores)) {}
  BeamStep step() {
    return [this](std::span<const int32_t> parents, std::span<const int32_t> ids) {
      std::vector<Ids> next;
      for (size_t r = 0; r < ids.size(); ++r) {
        Ids tokens = rows_.empty() ? Ids{} : rows_.at(parents[r]);
        tokens.push_back(ids[r]);
        next.push_back(tokens);
      }
      rows_ = next;
      Matrix logits(static_cast<int64_t>(rows_.size()), vocab_);
      for (size_t r = 0; r < rows_.size(); ++r) {
        const std::vector<float> s = scores_(rows_[r]);
        std::copy(s.begin(), s.end(), logits.row(static_cast<int64_t>(r)));
      }
      ++steps;
      return logits;
    };
  }
  int steps = 0;

 private:
  int vocab_;
  std::function<std::vector<float>(const Ids&)> scores_;
  std::vector<Ids> rows_;
};

/// Logarithms of probabilities, as scores.
std::vector<float> logs(const std::vector<double>& p) {
  std::vector<float> out;
  for (const double v : p) out.push_back(static_cast<float>(std::log(v)));
  return out;
}

// Tokens: 0 start, 1 eos, 2 and 3. Greedy takes 2 (0.6) and then nothing good; 3 (0.4) goes on with certainty.
std::vector<float> garden_path(const Ids& tokens) {
  if (tokens.size() == 1) return logs({1e-9, 1e-9, 0.6, 0.4});
  if (tokens[1] == 2) return logs({1e-9, 0.3, 0.3, 0.4});
  return logs({1e-9, 0.98, 0.01, 0.01});
}

// Breaks when a beam that starts worse is not followed.
TEST(BeamSearch, FindsWhatGreedyMisses) {
  Table table(4, garden_path);
  GenerationConfig g = beams(2, 2);
  g.length_penalty = 0;
  g.n_best = 2;
  const auto best = beam_search(g, table.step());
  EXPECT_EQ(best[0].tokens, (Ids{3, kEos}));
  EXPECT_NEAR(best[0].score, std::log(0.4 * 0.98), 1e-5);
  EXPECT_EQ(best[1].tokens, (Ids{2, 3}));  // cut by its length, which finishes it too
  EXPECT_NEAR(best[1].score, std::log(0.6 * 0.4), 1e-5);
}

// Breaks when the penalty counts the decoder's start, or multiplies where it should divide.
TEST(BeamSearch, LengthPenalty) {
  for (const double penalty : {-1.0, 0.5, 1.0, 2.0}) {
    Table table(4, garden_path);
    GenerationConfig g = beams(2, 2);
    g.length_penalty = penalty;
    EXPECT_NEAR(beam_search(g, table.step())[0].score, std::log(0.4 * 0.98) / std::pow(2, penalty), 1e-5);
  }
}

/// Ends at every step with probability `end`, goes on with `on`, and must end after 30 tokens.
int steps_until_it_stops(EarlyStopping rule, double end, double on) {
  Table table(4, [=](const Ids& tokens) {
    return tokens.size() > 30 ? logs({1e-9, 1, 1e-9, 1e-9}) : logs({1e-9, end, on, 1 - end - on});
  });
  GenerationConfig g = beams(2, 40);
  g.early_stopping = rule;
  beam_search(g, table.step());
  return table.steps;
}

// Breaks when the three stopping rules are confused: true ends at once, false when the present length says so, "never"
// at the most favourable length.
TEST(BeamSearch, EarlyStopping) {
  using enum EarlyStopping;
  EXPECT_EQ(steps_until_it_stops(kTrue, 0.5, 0.45), 2);
  EXPECT_EQ(steps_until_it_stops(kFalse, 0.5, 0.45), 2);  // 0.45^2 a token is less than what has ended
  EXPECT_GT(steps_until_it_stops(kNever, 0.5, 0.45), 25);
  EXPECT_EQ(steps_until_it_stops(kTrue, 0.3, 0.6), 2);
  EXPECT_GT(steps_until_it_stops(kFalse, 0.3, 0.6), 25);  // going on is better a token than ending
}

struct Scored {
  double score;
  Ids tokens;
};
/// Every sequence that ends in eos or at the length, by its sum of log-probabilities.
void enumerate(const std::function<std::vector<float>(const Ids&)>& scores, int max_new, Ids tokens,
               double sum, std::vector<Scored>& out) {
  if (tokens.size() > 1 && (tokens.back() == kEos || static_cast<int>(tokens.size()) == max_new + 1)) {
    out.push_back({sum, Ids(tokens.begin() + 1, tokens.end())});
    return;
  }
  const std::vector<float> p = log_softmax(scores(tokens));
  tokens.push_back(0);
  for (size_t t = 0; t < p.size(); ++t) {
    tokens.back() = static_cast<int32_t>(t);
    enumerate(scores, max_new, tokens, sum + p[t], out);
  }
}

// Breaks when the search loses a candidate: with as many beams as there are sequences it must find all the best.
TEST(BeamSearch, WideEnoughIsExhaustive) {
  const uint64_t seed = test_seed();
  constexpr int kVocab = 4, kNew = 3, kBest = 8;
  const auto scores = [&](const Ids& tokens) {
    uint64_t key = seed;
    for (const int32_t t : tokens) key = mix64(key + static_cast<uint64_t>(t) + 1);
    std::vector<float> row(kVocab);
    for (int t = 0; t < kVocab; ++t) row[t] = static_cast<float>(centred_sum(key, t)) * 0x1p-15f;
    return row;
  };
  std::vector<Scored> all;
  enumerate(scores, kNew, {0}, 0, all);
  std::sort(all.begin(), all.end(), [](const Scored& a, const Scored& b) { return a.score > b.score; });
  GenerationConfig g = beams(kVocab * kVocab * kVocab, kNew);
  g.length_penalty = 0;
  g.early_stopping = EarlyStopping::kNever;
  g.n_best = kBest;
  Table table(kVocab, scores);
  const auto found = beam_search(g, table.step());
  for (int i = 0; i < kBest; ++i) EXPECT_NEAR(found[i].score, all[i].score, 1e-4) << i;
}

// Breaks when beams of one sequence read each other's keys and values after they have changed places.
TEST(BeamSearch, CacheFollowsItsBeam) {
  const uint64_t seed = run_seed();
  const TestModel m(small_config(), seed);
  GenerationConfig g = beams(4, 9);
  g.eos_ids = {m.config.eos_id};
  g.decoder_start_id = m.config.decoder_start_id;
  g.length_penalty = 0;
  const TransformerBatch source = make_batch(m.config, {5, 3}, seed);
  const auto found = decode(m.config, m.weights(), source, g);
  for (int b = 0; b < 2; ++b) {
    const Hypothesis& best = found[b].front();
    const TransformerBatch one = pack(
        m.config, {{source.ids.begin() + source.offsets[b], source.ids.begin() + source.offsets[b + 1]}});
    Ids inputs = {m.config.decoder_start_id};
    inputs.insert(inputs.end(), best.tokens.begin(), best.tokens.end() - 1);
    const int steps = static_cast<int>(inputs.size());
    const Matrix logits = forced_logits_uncached(m.config, m.weights(), one, inputs, steps);
    double sum = 0;
    for (int t = 0; t < steps; ++t) {
      sum += log_softmax({logits.row(t), static_cast<size_t>(logits.cols)})[best.tokens[t]];
    }
    EXPECT_NEAR(best.score, sum, 1e-4);
  }
}

// Without it a setting that nothing computes, or a length that the position table does not have, would be ignored.
TEST(Decode, RefusesWhatItCannotDo) {
  ModelConfig config = small_config();
  config.position = Position::kLearned;
  const TestModel m(config, run_seed());
  const TransformerBatch source = make_batch(m.config, {3}, 1);
  GenerationConfig g = beams(1, 4);
  EXPECT_EQ(decode(m.config, m.weights(), source, g).size(), 1u);
  g.max_length = m.config.max_positions + 2;
  EXPECT_THROW(decode(m.config, m.weights(), source, g), UsageError);
  g = beams(1, 4);
  g.unsupported = {{"guidance_scale"}};
  EXPECT_THROW(decode(m.config, m.weights(), source, g), UsageError);
  g = beams(3, 4);
  g.n_best = 4;
  EXPECT_THROW(decode(m.config, m.weights(), source, g), UsageError);
}

// Breaks when log-probabilities are those of another token, or of processed scores.
TEST(Decode, LogProbabilitiesAreTheModels) {
  const TestModel m(small_config(), run_seed());
  const TransformerBatch source = make_batch(m.config, {4}, 2);
  GenerationConfig g = beams(1, 5);
  g.repetition_penalty = 3;
  g.decoder_start_id = m.config.decoder_start_id;
  const Hypothesis h = decode(m.config, m.weights(), source, g).front().front();
  Ids inputs = {m.config.decoder_start_id};
  inputs.insert(inputs.end(), h.tokens.begin(), h.tokens.end() - 1);
  const Matrix logits = forced_logits(m.config, m.weights(), source, inputs, static_cast<int>(inputs.size()));
  ASSERT_EQ(h.log_probabilities.size(), h.tokens.size());
  double sum = 0;
  for (size_t t = 0; t < h.tokens.size(); ++t) {
    const auto p = log_softmax({logits.row(static_cast<int64_t>(t)), static_cast<size_t>(logits.cols)});
    EXPECT_NEAR(h.log_probabilities[t], p[h.tokens[t]], 1e-5);
    sum += h.log_probabilities[t];
  }
  EXPECT_NEAR(h.score, sum, 1e-4);
}

}  // namespace
}  // namespace tandem::reference
