// The bodies of the decoding kernels, run by fibers, against the reference.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/decoding/beam_source.h"
#include "kernels/decoding/choose.h"
#include "kernels/decoding/decoding_test_util.h"
#include "kernels/decoding/host_block.h"
#include "kernels/decoding/pack_rules.h"
#include "kernels/decoding/split_test_util.h"
#include "reference/model/logits.h"
#include "reference/model/sampling.h"
#include "reference/ops/head.h"

namespace tandem::kernels {
namespace {

/// Scores would sort or add up wrongly.
TEST(Probability, KeysSortAndMassesAreExponentials) {
  Draws d;
  const float inf = std::numeric_limits<float>::infinity();
  std::vector<float> v = {-inf, -1e30f, -1.0f, -1e-38f, 0.0f, 1e-38f, 2.0f, 1e30f, inf};
  for (size_t i = 0; i + 1 < v.size(); ++i) EXPECT_LT(order_key(v[i]), order_key(v[i + 1])) << v[i];
  for (const float x : v) EXPECT_EQ(key_score(order_key(x)), x);
  EXPECT_EQ(order_key(-0.0f), order_key(0.0f));
  EXPECT_LT(order_key(std::nanf("")), order_key(-inf));
  EXPECT_EQ(mass(0), uint64_t{1} << kMassBits);
  EXPECT_EQ(mass(-inf), 0u);
  EXPECT_EQ(mass(std::nanf("")), 0u);
  for (int i = 0; i < 10'000; ++i) {
    const auto x = static_cast<float>(-32 * d.uniform());
    const double exact = std::exp(static_cast<double>(x));
    EXPECT_NEAR(std::ldexp(static_cast<double>(mass(x)), -kMassBits), exact, 0x1p-22 * exact + 0x1p-43) << x;
  }
}

/// A search would stop at another element than sorting says.
TEST(Quantile, FindsWhatSortingFinds) {
  Draws d;
  for (int round = 0; round < 40; ++round) {
    const int n = 1 + d.below(600);
    std::vector<std::pair<uint32_t, uint64_t>> all;
    uint64_t total = 0;
    for (int i = 0; i < n; ++i) {
      const bool close = round % 2 == 0;
      all.emplace_back(
          close ? 0x80000000u + static_cast<uint32_t>(d.below(40)) : static_cast<uint32_t>(d.bits()),
          round % 3 == 0 ? 1 : d.bits() >> 20);
      total += all.back().second;
    }
    if (total == 0) continue;
    const auto limit = static_cast<uint64_t>(d.uniform() * static_cast<double>(total - 1));
    auto sorted = all;
    std::sort(sorted.begin(), sorted.end());
    uint64_t below = 0, sum_to = 0, expected_below = 0;
    uint32_t expected = 0;
    for (size_t i = 0; i < sorted.size(); ++i) {
      if (i == 0 || sorted[i].first != sorted[i - 1].first) below = sum_to;
      sum_to += sorted[i].second;
      if (sum_to > limit) {
        expected = sorted[i].first;
        expected_below = below;
        break;
      }
    }
    HostBlock block(64, d.bits());
    BlockScratch b;
    QuantileScratch s;
    block.run([&] {
      const Quantile q = find_quantile(block, b, s, limit, [&](auto&& take) {
        for (size_t i = static_cast<size_t>(block.thread()); i < all.size(); i += 64)
          take(all[i].first, all[i].second);
      });
      EXPECT_EQ(q.key, expected);
      EXPECT_EQ(q.below, expected_below);
    });
  }
}

struct Chosen {
  Choice choice;
  bool agreed = true;  ///< by all threads
};

/// By ranks that split the vocabulary, each with as many candidates as a plan has.
Chosen run_choose_split(Draws& d, const DecodingRules& r, const std::vector<int32_t>& sequence,
                        double uniform, const Row& row, int degree) {
  const History history{
      .generated = sequence.data() + 1, .start_id = sequence[0], .length = static_cast<int>(sequence.size())};
  SplitRows split(degree, 2, r.sample ? r.top_k : 1);
  const std::function<Row::Bias(int)> bias = [&](int first) { return Row::Bias{row.bias.data() + first}; };
  split.bring<Row::Bias>(d, r, history, 1, row.view(), bias);
  HostBlock block(32 << d.below(3), d.bits());
  auto s = std::make_unique<RowScratch>();
  Chosen out;
  int first = -1;
  block.run([&] {
    const Choice c = choose_of_ranks(block, *s, r, uniform, split.view(), 1);
    if (first < 0) out.choice = c, first = c.id;
    out.agreed = out.agreed && c.id == first;
  });
  return out;
}

Chosen run_choose(Draws& d, const DecodingRules& r, const std::vector<int32_t>& sequence, double uniform,
                  const Row& row) {
  HostBlock block(32 << d.below(3), d.bits());
  auto s = std::make_unique<RowScratch>();
  std::vector<uint32_t> bitmaps(static_cast<size_t>(2 * mark_words(r.vocab)));
  Chosen out;
  const History history{
      .generated = sequence.data() + 1, .start_id = sequence[0], .length = static_cast<int>(sequence.size())};
  int first = -1;
  block.run([&] {
    const Marks marks = make_marks(block, r, history, needs_marks(r) ? bitmaps.data() : nullptr);
    const Choice c = choose(block, *s, r, marks, uniform, row.view());
    if (first < 0) out.choice = c, first = c.id;
    out.agreed = out.agreed && c.id == first;
  });
  return out;
}

/// A next token would break a rule, or not be the likeliest.
TEST(Choose, GreedyFollowsTheRules) {
  Draws d;
  for (int round = 0; round < 150; ++round) {
    const int vocab = 33 + d.below(400);
    const int max_length = 4 + d.below(12);
    const GenerationConfig g = random_rules(d, vocab, max_length);
    const PackedRules packed = pack_rules(g, vocab);
    const Row row(d, vocab);
    std::vector<int32_t> sequence = {g.decoder_start_id};
    // Few different ids, so that n-grams and bad words come back.
    while (static_cast<int>(sequence.size()) < 1 + d.below(max_length - 1)) {
      sequence.push_back(
          g.bad_words.empty()
              ? d.below(3)
              : g.bad_words[0][static_cast<size_t>(d.below(static_cast<int>(g.bad_words[0].size())))]);
    }
    std::vector<float> scores = row.scores();
    const std::vector<float> before = reference::log_softmax(scores);
    GenerationConfig greedy = g;
    greedy.renormalise = false;
    reference::process(greedy, sequence, scores);
    const auto best = static_cast<int32_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
    const Chosen got = run_choose(d, packed.at(packed.table.data()), sequence, 0, row);
    EXPECT_EQ(got.choice.id, best) << round;
    EXPECT_TRUE(got.agreed);
    EXPECT_NEAR(got.choice.log_probability, before[static_cast<size_t>(best)], 2e-6);
    if (round % 2 == 0) {
      const int degree = 2 << d.below(3);
      const Chosen split = run_choose_split(d, packed.at(packed.table.data()), sequence, 0, row, degree);
      EXPECT_EQ(split.choice.id, best) << round << ", " << degree << " ranks";
      EXPECT_TRUE(split.agreed);
      EXPECT_NEAR(split.choice.log_probability, before[static_cast<size_t>(best)], 2e-6);
    }
  }
}

/// Is the score after the top_k-th its equal? Which of them are in is then another matter for ranks, who bring top_k each.
bool equal_at_border(std::vector<float> scores, int top_k) {
  const auto k = static_cast<size_t>(top_k);
  if (k >= scores.size()) return false;
  std::sort(scores.begin(), scores.end(), std::greater<>());
  return scores[k - 1] == scores[k];
}

/// Draws would not follow the distribution: for every number in [0, 1) the id must be the reference's, but for numbers within a
/// rounding of the border between two ids.
TEST(Choose, DrawsWhatTheReferenceDraws) {
  Draws d;
  int excused = 0, draws = 0, split_draws = 0, split_other = 0;
  for (int round = 0; round < 60; ++round) {
    const int vocab = 20 + d.below(300);
    GenerationConfig g = random_rules(d, vocab, 16);
    g.forced_bos_id.reset();
    g.sample = true;
    g.temperature = 0.5 + d.uniform();
    g.top_k = d.below(2) == 0 ? 0 : 1 + d.below(vocab + 10);
    g.top_p = d.below(2) == 0 ? 1 : 0.05 + 0.9 * d.uniform();
    const PackedRules packed = pack_rules(g, vocab);
    const Row row(d, vocab);
    const std::vector<int32_t> sequence = {g.decoder_start_id, d.below(vocab)};
    std::vector<float> scores = row.scores();
    reference::process(g, sequence, scores);
    const std::vector<double> p = reference::sampling_distribution(g, scores);
    for (int i = 0; i < 20; ++i, ++draws) {
      const double uniform = d.uniform();
      const int32_t want = reference::draw(p, uniform);
      const int32_t got = run_choose(d, packed.at(packed.table.data()), sequence, uniform, row).choice.id;
      if (g.top_k > 0 && i % 4 == 0) {
        // Where no id beyond the top_k-th is its equal, ranks draw as one does, but for a rounding of sums.
        const DecodingRules rules = packed.at(packed.table.data());
        const int degree = 2 << d.below(3);
        const int32_t split = run_choose_split(d, rules, sequence, uniform, row, degree).choice.id;
        ++split_draws;
        split_other += split == got ? 0 : 1;
        const bool near = split == want || reference::draw(p, uniform - 2e-6) == split ||
                          reference::draw(p, uniform + 2e-6) == split;
        EXPECT_TRUE(near || equal_at_border(scores, g.top_k)) << degree << " ranks, top_k " << g.top_k;
      }
      if (got == want) continue;
      const bool border =
          reference::draw(p, uniform - 2e-6) == got || reference::draw(p, uniform + 2e-6) == got;
      EXPECT_TRUE(border) << "round " << round << " top_k " << g.top_k << " top_p " << g.top_p;
      ++excused;
    }
  }
  fmt::print("{} draws, {} at a border\n", draws, excused);
  EXPECT_LE(excused, draws / 200);
  fmt::print("{} draws over ranks, {} of another id\n", split_draws, split_other);
  EXPECT_GT(split_draws, 50);
}

/// The search of one source as the kernels do it, with a cache that only ancestry can find.
class Search {
 public:
  /// `degree`: ranks that split the vocabulary.
  Search(const GenerationConfig& g, int vocab, int first_row, int degree = 1)
      : g_(g),
        split_(degree, first_row + g.beams, pack_rules(g, vocab).rules.kept),
        packed_(pack_rules(g, vocab)),
        rules_(packed_.at(packed_.table.data())),
        k_(static_cast<size_t>(g.beams)),
        capacity_(static_cast<size_t>(g.max_length - 1)),
        first_row_(first_row),
        best(k_ * static_cast<size_t>(rules_.kept)),
        running(k_, kHopeless),
        history(k_ * capacity_, -1),
        ancestry(k_ * capacity_, -1),
        next_ids(k_, g.decoder_start_id),
        finished(k_, 0),
        hypotheses(k_ * capacity_, -1),
        lengths(k_, 0),
        slots(k_),
        scores(k_, kHopeless) {
    running[0] = 0;
    std::iota(slots.begin(), slots.end(), 0);
  }

  BeamSource source(int position) {
    return {.first_row = first_row_,
            .position = position,
            .capacity = static_cast<int64_t>(capacity_),
            .best = split_.degree > 1 ? nullptr : best.data(),
            .ranks = split_.degree > 1 ? split_.view() : RankLists{},
            .running = running.data(),
            .history = history.data(),
            .ancestry = ancestry.data(),
            .next_ids = next_ids.data(),
            .finished = finished.data(),
            .hypotheses = hypotheses.data(),
            .lengths = lengths.data(),
            .slots = slots.data(),
            .scores = scores.data()};
  }

  /// One token for every beam; `cache` [rows][capacity] has the ids that each row was fed.
  void step(Draws& d, const Model& model, int position, std::vector<std::vector<int32_t>>& cache) {
    for (size_t b = 0; b < k_; ++b) {
      const size_t row = static_cast<size_t>(first_row_) + b;
      cache[row][static_cast<size_t>(position)] = next_ids[b];
      std::vector<int32_t> fed;
      for (int t = 0; t < position; ++t) {
        fed.push_back(cache[static_cast<size_t>(ancestry[b * capacity_ + static_cast<size_t>(t)])]
                           [static_cast<size_t>(t)]);
      }
      fed.push_back(next_ids[b]);
      const History h{
          .generated = history.data() + b * capacity_, .start_id = rules_.start_id, .length = position + 1};
      for (int t = 0; t <= position; ++t)
        EXPECT_EQ(fed[static_cast<size_t>(t)], h[t]) << "ancestry loses a token";
      const std::vector<float> logits = following(model, fed, g_, rules_.vocab);
      const LogitRow<NoBias> row_view{.logits = logits.data(), .vocab = rules_.vocab, .aligned = false};
      if (split_.degree > 1) {
        split_.bring<NoBias>(d, rules_, h, static_cast<int>(row), row_view, [](int) { return NoBias{}; },
                             {.beam = true, .running = running[b]});
        continue;
      }
      HostBlock block(32 << d.below(3), d.bits());
      auto s = std::make_unique<BeamRowScratch>();
      std::vector<uint32_t> bitmaps(static_cast<size_t>(2 * mark_words(rules_.vocab)));
      block.run([&] {
        const Marks marks = make_marks(block, rules_, h, needs_marks(rules_) ? bitmaps.data() : nullptr);
        best_continuations(block, *s, rules_, marks, running[b], row_view,
                           best.data() + b * static_cast<size_t>(rules_.kept));
      });
    }
    HostBlock block(64, d.bits());
    auto s = std::make_unique<BeamSourceScratch>();
    const BeamSource state = source(position);
    block.run([&] { advance_source(block, *s, rules_, state); });
  }

  bool over() const { return finished[0] != 0; }
  std::vector<int32_t> tokens(int rank) const {
    const auto slot = static_cast<size_t>(slots[static_cast<size_t>(rank)]);
    const auto first = hypotheses.begin() + static_cast<ptrdiff_t>(slot * capacity_);
    return {first, first + lengths[slot]};
  }
  float score(int rank) const { return scores[static_cast<size_t>(rank)]; }

 private:
  GenerationConfig g_;
  SplitRows split_;
  PackedRules packed_;
  DecodingRules rules_;
  size_t k_, capacity_;
  int first_row_;

 public:
  std::vector<Continuation> best;
  std::vector<float> running;
  std::vector<int32_t> history, ancestry, next_ids, finished, hypotheses, lengths, slots;
  std::vector<float> scores;
};

/// Beams would find other sequences than the reference (and so than transformers), or lose their way in the cache.
TEST(Beams, FindWhatTheReferenceFinds) {
  Draws d;
  int by_length = 0, different = 0, searches = 0;
  for (int round = 0; round < 120; ++round) {
    const int vocab = 40 + d.below(200);
    GenerationConfig g = random_rules(d, vocab, 3 + d.below(12));
    g.beams = 2 + d.below(round % 10 == 0 ? 12 : 4);
    g.n_best = g.beams;
    const double penalties[] = {1, 0, -0.7, 2};
    g.length_penalty = penalties[d.below(4)];
    g.early_stopping = static_cast<EarlyStopping>(d.below(3));
    const int degree = round % 2 == 0 ? 1 : 2 << d.below(3);
    if (degree > 1) g.renormalise = false;  // a second sum over all scores: plans of ranks refuse it
    if (!unsupported_rules(g, vocab).empty()) continue;
    const Model model{.key = d.bits(), .spread = 0.5 + 3 * d.uniform(), .end = 5 * d.uniform()};

    const auto want = reference_search(model, g, vocab);
    const int first_row = d.below(5);
    Search search(g, vocab, first_row, degree);
    std::vector<std::vector<int32_t>> cache(static_cast<size_t>(first_row + g.beams),
                                            std::vector<int32_t>(static_cast<size_t>(g.max_length), -7));
    int position = 0;
    for (; position < g.max_length - 1 && !search.over(); ++position) search.step(d, model, position, cache);
    by_length += position == g.max_length - 1 ? 1 : 0;
    ++searches;
    bool same = true;
    for (int i = 0; i < g.n_best; ++i) {
      same = same && search.tokens(i) == want[static_cast<size_t>(i)].tokens;
      EXPECT_NEAR(search.score(i), want[static_cast<size_t>(i)].score,
                  1e-4 * std::max(1.0, std::abs(want[static_cast<size_t>(i)].score)))
          << "round " << round << " rank " << i;
    }
    different += same ? 0 : 1;
    EXPECT_EQ(search.tokens(0), want[0].tokens) << "round " << round;
  }
  fmt::print(
      "{} searches, {} to their full length, {} with two sequences of near scores in the other order\n",
      searches, by_length, different);
  EXPECT_GT(by_length, searches / 10);
  EXPECT_LT(by_length, searches);
  EXPECT_LE(different, searches / 20);
}

/// A row where nearly everything is banned or equal has no bound near the top; it must still give the right ids.
TEST(Beams, RowsWithoutATop) {
  Draws d;
  const int vocab = 3000;
  GenerationConfig g;
  g.beams = 4;
  g.max_length = 9;
  g.eos_ids = {7};
  for (const bool forced : {false, true}) {
    if (forced) g.forced_bos_id = 2999;
    const PackedRules packed = pack_rules(g, vocab);
    const DecodingRules r = packed.at(packed.table.data());
    const std::vector<float> logits(vocab, 0.25f);  // all equal
    std::vector<Continuation> best(static_cast<size_t>(r.kept));
    HostBlock block(64, random_bits(d.key, 1));
    auto s = std::make_unique<BeamRowScratch>();
    block.run([&] {
      const Marks marks = make_marks(block, r, {.generated = nullptr, .start_id = 0, .length = 1}, nullptr);
      const LogitRow<NoBias> row{.logits = logits.data(), .vocab = vocab, .aligned = false};
      best_continuations(block, *s, r, marks, -1.0f, row, best.data());
    });
    for (int i = 0; i < r.kept; ++i) {
      const int32_t want = !forced ? i : i == 0 ? 2999 : i - 1;
      EXPECT_EQ(best[static_cast<size_t>(i)].id, want) << forced;
    }
    EXPECT_NEAR(best[0].score, forced ? -1.0f : -1.0f - std::log(3000.0f), 1e-5);
  }
}

/// Two fibers that read what another has not written yet must see it: the test of the tests.
TEST(HostBlock, AMissingBarrierShows) {
  int wrong = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    HostBlock block(32, seed);
    std::vector<int> shared(32, 0), read(32);
    block.run([&] {
      shared[static_cast<size_t>(block.thread())] = 1;
      read[static_cast<size_t>(block.thread())] = shared[static_cast<size_t>(31 - block.thread())];
    });
    wrong += std::count(read.begin(), read.end(), 0) > 0 ? 1 : 0;
  }
  EXPECT_EQ(wrong, 20);
  HostBlock uneven(32, 1);
  EXPECT_THROW(uneven.run([&] {
    if (uneven.thread() == 3) uneven.sync();
  }),
               std::logic_error);
}

}  // namespace
}  // namespace tandem::kernels
