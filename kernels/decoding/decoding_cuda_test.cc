// The decoding kernels on a card against the reference: whole searches of several sources side by side, and single choices.
#include <fmt/format.h>

#include "kernels/common/device_test.h"
#include "kernels/decoding/decoding.h"
#include "kernels/decoding/decoding_test_util.h"
#include "kernels/decoding/pack_rules.h"
#include "reference/model/logits.h"
#include "reference/model/sampling.h"

namespace tandem::kernels {
namespace {

template <typename T>
DeviceBuffer filled(size_t count, T value) {
  return DeviceBuffer::of(std::vector<T>(count, value));
}

/// State of `rows` rows, poisoned where a kernel must write before it reads.
struct State {
  State(int rows, int capacity, int32_t start_id)
      : next_ids(filled<int32_t>(static_cast<size_t>(rows), start_id)),
        tokens(filled<int32_t>(static_cast<size_t>(rows) * static_cast<size_t>(capacity), -1)),
        position(filled<int32_t>(1, 0)),
        finished(filled<int32_t>(static_cast<size_t>(rows), 0)),
        running(filled<int32_t>(1, -1)),
        arrived(filled<int32_t>(1, 0)),
        view{.next_ids = next_ids.data<int32_t>(),
             .tokens = tokens.data<int32_t>(),
             .capacity = capacity,
             .position = position.data<int32_t>(),
             .finished = finished.data<int32_t>(),
             .running = running.data<int32_t>(),
             .arrived = arrived.data<int32_t>()} {}
  DeviceBuffer next_ids, tokens, position, finished, running, arrived;
  StepState view;
};

/// Logits on the device, rows `vocab + padding` apart.
DeviceBuffer upload_rows(const std::vector<std::vector<float>>& rows, int64_t stride) {
  std::vector<float> all(rows.size() * static_cast<size_t>(stride), std::nanf(""));
  for (size_t r = 0; r < rows.size(); ++r) {
    std::copy(rows[r].begin(), rows[r].end(), all.begin() + static_cast<ptrdiff_t>(r) * stride);
  }
  return DeviceBuffer::of(all);
}

std::vector<int32_t> row_of(const std::vector<int32_t>& all, int row, int capacity, int count) {
  const auto first = all.begin() + static_cast<ptrdiff_t>(row) * capacity;
  return {first, first + count};
}

/// Ranks that split the vocabulary, all on this device: what each launches, gathered where it is written.
class SplitRanks {
 public:
  SplitRanks(int degree, int rows, int count)
      : degree_(degree),
        rows_(rows),
        count_(count),
        sums_(filled<float>(static_cast<size_t>(2 * degree * rows), std::nanf(""))),
        candidates_(
            filled<int32_t>(static_cast<size_t>(kCandidateInts * degree * rows * count), 0x7f7f7f7f)) {}

  RankLists lists() const {
    return {.sums = sums_.data<float>(),
            .candidates = candidates_.data<int32_t>(),
            .degree = degree_,
            .rows = rows_,
            .count = count_};
  }
  /// logits.bias: fp32 or null.
  void bring(const DecodingRules& rules, const StepLogits& logits, const StepState& state,
             const float* running) const {
    const auto each = [&](auto&& body) {
      const int share = ceil_div(rules.vocab, degree_);
      for (int k = 0; k < degree_; ++k) {
        StepLogits part = logits;
        part.logits += k * share;
        if (part.bias != nullptr) part.bias = static_cast<const float*>(part.bias) + k * share;
        body(k, part, k * share, std::min(share, rules.vocab - k * share));
      }
    };
    each([&](int k, const StepLogits& part, int, int ids) {
      launch_row_sums(
          {.rows = rows_, .vocab = ids, .logits = part, .sums = sums_.data<float>() + 2 * k * rows_},
          nullptr);
    });
    each([&](int k, const StepLogits& part, int first, int ids) {
      RankLists given = lists();
      given.candidates = nullptr;
      launch_candidates({.rules = rules,
                         .rows = rows_,
                         .vocab = ids,
                         .first_id = first,
                         .logits = part,
                         .tokens = state.tokens,
                         .capacity = state.capacity,
                         .position = state.position,
                         .finished = state.finished,
                         .running_scores = running,
                         .ranks = given,
                         .candidates = candidates_.data<int32_t>() + kCandidateInts * count_ * rows_ * k},
                        nullptr);
    });
  }

 private:
  int degree_, rows_, count_;
  DeviceBuffer sums_, candidates_;
};

/// Sources of a batch search by the same rules, each its own model. Returns how many found another second-best or lower.
/// `degree`: ranks that split the vocabulary.
int expect_searches(Draws& d, const GenerationConfig& g, int vocab, int sources, int degree) {
  const PackedRules packed = pack_rules(g, vocab);
  const DeviceBuffer table = DeviceBuffer::of(packed.table);
  const int capacity = g.max_length - 1 + d.below(3);
  const int rows = sources * g.beams;
  const int64_t stride = (vocab + 7) / 8 * 8 + 8 * d.below(2);
  State state(rows, capacity, g.decoder_start_id);
  const auto n = static_cast<size_t>(rows);
  const size_t all = n * static_cast<size_t>(capacity);
  const DeviceBuffer best = filled<int32_t>(2 * n * static_cast<size_t>(packed.rules.kept), -1);
  const DeviceBuffer running = filled<float>(n, std::nanf("")), scores = filled<float>(n, std::nanf(""));
  const DeviceBuffer ancestry = filled<int32_t>(all, -1), hypotheses = filled<int32_t>(all, -1);
  const DeviceBuffer lengths = filled<int32_t>(n, -1), slots = filled<int32_t>(n, -1);
  BeamParams p{.rules = packed.at(table.data<int32_t>()),
               .sources = sources,
               .logits = {.stride = stride},
               .state = state.view,
               .best = best.data<Continuation>(),
               .running_scores = running.data<float>(),
               .ancestry = ancestry.data<int32_t>(),
               .hypotheses = hypotheses.data<int32_t>(),
               .lengths = lengths.data<int32_t>(),
               .slots = slots.data<int32_t>(),
               .scores = scores.data<float>()};
  launch_beam_state(p, nullptr);
  const SplitRanks split(degree, rows, packed.rules.kept);
  if (degree > 1) {
    p.best = nullptr;
    p.ranks = split.lists();
  }

  std::vector<Model> models;
  for (int s = 0; s < sources; ++s) {
    models.push_back({.key = d.bits(), .spread = 0.5 + 3 * d.uniform(), .end = 5 * d.uniform()});
  }
  std::vector<std::vector<int32_t>> cache(n, std::vector<int32_t>(static_cast<size_t>(capacity), -7));
  for (int position = 0; position < g.max_length - 1; ++position) {
    const auto ids = state.next_ids.to_host<int32_t>();
    const auto lines = ancestry.to_host<int32_t>();
    const auto ended = state.finished.to_host<int32_t>();
    std::vector<std::vector<float>> logits(n, std::vector<float>(static_cast<size_t>(vocab), std::nanf("")));
    for (size_t r = 0; r < n; ++r) {
      if (ended[r] != 0) continue;
      cache[r][static_cast<size_t>(position)] = ids[r];
      std::vector<int32_t> fed;
      for (size_t t = 0; t < static_cast<size_t>(position); ++t) {
        fed.push_back(cache.at(static_cast<size_t>(lines[r * static_cast<size_t>(capacity) + t]))[t]);
      }
      fed.push_back(ids[r]);
      logits[r] = following(models[r / static_cast<size_t>(g.beams)], fed, g, vocab);
    }
    const DeviceBuffer uploaded = upload_rows(logits, stride);
    p.logits.logits = uploaded.data<float>();
    if (degree > 1) split.bring(p.rules, p.logits, p.state, p.running_scores);
    launch_beam(p, nullptr);
    TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
    if (state.running.to_host<int32_t>()[0] == 0) break;
  }
  EXPECT_EQ(state.arrived.to_host<int32_t>()[0], 0);

  int different = 0;
  const auto found = hypotheses.to_host<int32_t>(), found_lengths = lengths.to_host<int32_t>(),
             found_slots = slots.to_host<int32_t>();
  const auto found_scores = scores.to_host<float>();
  for (int s = 0; s < sources; ++s) {
    const auto want = reference_search(models[static_cast<size_t>(s)], g, vocab);
    for (int i = 0; i < g.beams; ++i) {
      const int slot = found_slots[static_cast<size_t>(s * g.beams + i)];
      const int row = s * g.beams + slot;
      const auto tokens = row_of(found, row, capacity, found_lengths[static_cast<size_t>(row)]);
      const reference::Hypothesis& h = want[static_cast<size_t>(i)];
      EXPECT_NEAR(found_scores[static_cast<size_t>(s * g.beams + i)], h.score,
                  1e-4 * std::max(1.0, std::abs(h.score)));
      if (i == 0) {
        EXPECT_EQ(tokens, h.tokens) << "source " << s;
      }
      different += tokens == h.tokens ? 0 : 1;
    }
  }
  return different;
}

/// Beams would find other sequences than the reference, or sources of a batch would disturb each other.
TEST(BeamKernels, FindWhatTheReferenceFinds) {
  TANDEM_NEEDS_DEVICE();
  Draws d;
  int different = 0, sequences = 0;
  for (int round = 0; round < 25; ++round) {
    const int vocab = round % 8 == 0 ? 32'000 + d.below(9) : 100 + d.below(3000);
    GenerationConfig g = random_rules(d, vocab, 3 + d.below(10));
    g.beams = 2 + d.below(round % 5 == 0 ? 12 : 4);
    g.n_best = g.beams;
    const double penalties[] = {1, 0, -0.7, 2};
    g.length_penalty = penalties[d.below(4)];
    g.early_stopping = static_cast<EarlyStopping>(d.below(3));
    const int degree = round % 2 == 0 ? 1 : 2 << d.below(3);
    if (degree > 1) g.renormalise = false;
    if (!unsupported_rules(g, vocab).empty()) continue;
    const int sources = 1 + d.below(5);
    SCOPED_TRACE(fmt::format("round {} vocab {} beams {} sources {} ranks {}", round, vocab, g.beams, sources,
                             degree));
    different += expect_searches(d, g, vocab, sources, degree);
    sequences += sources * g.beams;
  }
  fmt::print("{} sequences, {} in another order of near scores\n", sequences, different);
  EXPECT_LE(different, sequences / 20);
}

/// A choice would break a rule, follow another distribution, or depend on what else is in the batch.
TEST(ChooseKernel, ChoosesWhatTheReferenceChooses) {
  TANDEM_NEEDS_DEVICE();
  Draws d;
  int excused = 0, choices = 0;
  for (int round = 0; round < 40; ++round) {
    const int vocab = round % 8 == 0 ? 32'000 + d.below(9) : 50 + d.below(2000);
    GenerationConfig g = random_rules(d, vocab, 16);
    g.forced_bos_id.reset();
    g.renormalise = false;
    g.sample = d.below(3) != 0;
    g.temperature = 0.5 + d.uniform();
    g.top_k = d.below(2) == 0 ? 0 : 1 + d.below(60);
    g.top_p = d.below(2) == 0 ? 1 : 0.05 + 0.9 * d.uniform();
    const int rows = 1 + d.below(40), capacity = g.max_length - 1, position = 1 + d.below(8);
    const PackedRules packed = pack_rules(g, vocab);
    const DeviceBuffer table = DeviceBuffer::of(packed.table);
    State state(rows, capacity, g.decoder_start_id);
    const auto n = static_cast<size_t>(rows);

    std::vector<int32_t> tokens(n * static_cast<size_t>(capacity), -1), ended(n);
    std::vector<std::vector<float>> logits(n);
    std::vector<uint64_t> keys;
    const std::vector<float> bias = [&] {
      std::vector<float> b(static_cast<size_t>(vocab));
      for (float& v : b) v = d.logit(0.1);
      return b;
    }();
    for (size_t r = 0; r < n; ++r) {
      for (int i = 0; i < vocab; ++i) logits[r].push_back(d.below(8) == 0 ? 1.5f : d.logit());
      for (int t = 0; t < position; ++t)
        tokens[r * static_cast<size_t>(capacity) + static_cast<size_t>(t)] = d.below(5);
      keys.push_back(sampling_key(d.bits(), r));
      ended[r] = d.below(6) == 0 ? 1 : 0;
    }
    const int64_t stride = vocab + d.below(9);
    const DeviceBuffer uploaded = upload_rows(logits, stride), device_keys = DeviceBuffer::of(keys);
    const DeviceBuffer device_bias = DeviceBuffer::of(bias),
                       chances = filled<float>(tokens.size(), std::nanf(""));
    state.tokens = DeviceBuffer::of(tokens);
    state.finished = DeviceBuffer::of(ended);
    state.position = filled<int32_t>(1, position);
    state.view.tokens = state.tokens.data<int32_t>();
    state.view.finished = state.finished.data<int32_t>();
    state.view.position = state.position.data<int32_t>();
    const int degree = round % 2 == 0 || (g.sample && g.top_k == 0) ? 1 : 2 << d.below(3);
    const SplitRanks split(degree, rows, g.sample ? std::max(g.top_k, 1) : 1);
    const DecodingRules rules = packed.at(table.data<int32_t>());
    const StepLogits step_logits{.logits = uploaded.data<float>(),
                                 .stride = stride,
                                 .bias_dtype = DType::kF32,
                                 .bias = device_bias.data()};
    if (degree > 1) split.bring(rules, step_logits, state.view, nullptr);
    launch_choose({.rules = rules,
                   .rows = rows,
                   .logits = step_logits,
                   .ranks = degree > 1 ? split.lists() : RankLists{},
                   .state = state.view,
                   .keys = device_keys.data<uint64_t>(),
                   .log_probabilities = chances.data<float>()},
                  nullptr);
    const auto next = state.next_ids.to_host<int32_t>(), after = state.tokens.to_host<int32_t>(),
               finished = state.finished.to_host<int32_t>();
    const auto log_probabilities = chances.to_host<float>();
    EXPECT_EQ(state.position.to_host<int32_t>()[0], position + 1);
    int running = 0;
    for (size_t r = 0; r < n; ++r) {
      const size_t at = r * static_cast<size_t>(capacity) + static_cast<size_t>(position);
      EXPECT_EQ(after[at], next[r]);
      running += finished[r] == 0 ? 1 : 0;
      if (ended[r] != 0) {
        EXPECT_EQ(next[r], g.pad_id);
        EXPECT_EQ(finished[r], 1);
        continue;
      }
      EXPECT_EQ(finished[r] != 0, std::count(g.eos_ids.begin(), g.eos_ids.end(), next[r]) > 0);
      std::vector<int32_t> sequence = {g.decoder_start_id};
      for (int t = 0; t < position; ++t)
        sequence.push_back(tokens[r * static_cast<size_t>(capacity) + static_cast<size_t>(t)]);
      std::vector<float> scores = logits[r];
      for (size_t i = 0; i < scores.size(); ++i) scores[i] += bias[i];
      EXPECT_NEAR(log_probabilities[at], reference::log_softmax(scores)[static_cast<size_t>(next[r])], 1e-5);
      reference::process(g, sequence, scores);
      ++choices;
      if (!g.sample) {
        EXPECT_EQ(next[r], std::max_element(scores.begin(), scores.end()) - scores.begin());
        continue;
      }
      const std::vector<double> chance = reference::sampling_distribution(g, scores);
      const double uniform =
          static_cast<double>(random_bits(keys[r], static_cast<uint64_t>(position)) >> 11) * 0x1p-53;
      if (reference::draw(chance, uniform) == next[r]) continue;
      ++excused;
      EXPECT_TRUE(reference::draw(chance, uniform - 2e-6) == next[r] ||
                  reference::draw(chance, uniform + 2e-6) == next[r])
          << "top_k " << g.top_k << " top_p " << g.top_p << " row " << r;
    }
    EXPECT_EQ(state.running.to_host<int32_t>()[0], running);
  }
  fmt::print("{} choices, {} at a border\n", choices, excused);
  EXPECT_LE(excused, choices / 100);
}

/// Draws would not follow the distribution: chi-square over 100,000 of them, four kept tokens and the rest never.
TEST(ChooseKernel, DrawsFollowTheDistribution) {
  TANDEM_NEEDS_DEVICE();
  Draws d;
  constexpr int kRows = 1000, kSteps = 100, kVocab = 37;
  GenerationConfig g;
  g.sample = true;
  g.top_k = 4;
  g.temperature = 1.3;
  g.max_length = kSteps + 1;
  const PackedRules packed = pack_rules(g, kVocab);
  const DeviceBuffer table = DeviceBuffer::of(packed.table.empty() ? std::vector<int32_t>{0} : packed.table);
  std::vector<float> row;
  for (int i = 0; i < kVocab; ++i) row.push_back(d.logit(1));
  const DeviceBuffer uploaded = upload_rows(std::vector<std::vector<float>>(kRows, row), kVocab);
  std::vector<uint64_t> keys;
  const uint64_t seed = d.bits();
  for (uint64_t r = 0; r < kRows; ++r) keys.push_back(sampling_key(seed, r));
  const DeviceBuffer device_keys = DeviceBuffer::of(keys);
  State state(kRows, kSteps, 0);
  const ChooseParams p{.rules = packed.at(table.data<int32_t>()),
                       .rows = kRows,
                       .logits = {.logits = uploaded.data<float>(), .stride = kVocab},
                       .state = state.view,
                       .keys = device_keys.data<uint64_t>()};
  for (int t = 0; t < kSteps; ++t) launch_choose(p, nullptr);
  std::vector<int> counts(kVocab);
  for (const int32_t id : state.tokens.to_host<int32_t>()) ++counts.at(static_cast<size_t>(id));
  const std::vector<double> chance = reference::sampling_distribution(g, row);
  double chi_square = 0;
  for (size_t i = 0; i < chance.size(); ++i) {
    const double expected = chance[i] * kRows * kSteps;
    if (expected == 0) {
      EXPECT_EQ(counts[i], 0) << i;
    } else {
      chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
  }
  fmt::print("chi-square {:.2f}, 3 degrees of freedom\n", chi_square);
  EXPECT_LT(chi_square, 24.0);  // one time in 40,000 by chance
}

}  // namespace
}  // namespace tandem::kernels
