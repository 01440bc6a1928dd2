// What each rank brings of its part of a vocabulary, by fibers, against sorting and the reference's rules.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/decoding/pack_rules.h"
#include "kernels/decoding/split_test_util.h"
#include "reference/model/logits.h"

namespace tandem::kernels {
namespace {

/// A rank's candidates would be other ids than sorting gives, in another order, or leave words unwritten: parts of any width, equal
/// scores, everything equal, more asked for than there are, beams whose own score swallows the differences.
TEST(Split, PartsGiveTheirBestInOrder) {
  Draws d;
  for (int round = 0; round < 40; ++round) {
    const int vocab = round % 8 == 0 ? 4001 : 9 + d.below(500);
    GenerationConfig g = random_rules(d, vocab, 12);
    g.renormalise = false;  // plans of ranks refuse it
    const PackedRules packed = pack_rules(g, vocab);
    const DecodingRules r = packed.at(packed.table.data());
    Row row(d, vocab);
    if (round % 8 == 0) std::ranges::fill(row.values, 0.25f), std::ranges::fill(row.bias, 0.0f);
    const std::vector<int32_t> sequence = {g.decoder_start_id, d.below(vocab)};
    const History history{.generated = sequence.data() + 1, .start_id = sequence[0], .length = 2};
    const int degree = 1 << d.below(4);
    const int count = round % 5 == 0 ? kListCapacity : 1 + d.below(40);
    const bool beam = d.below(2) == 0;
    const float running = beam ? (d.below(3) == 0 ? kHopeless : d.logit()) : 0.0f;
    SplitRows split(degree, 3, count);
    const std::function<Row::Bias(int)> bias = [&](int first) { return Row::Bias{row.bias.data() + first}; };
    split.bring<Row::Bias>(d, r, history, 2, row.view(), bias, {.beam = beam, .running = running});

    const std::vector<float> logits = row.scores();
    const LogSum all = log_sum_of_ranks(split.view(), 2);
    double exact = 0;
    const float largest = *std::ranges::max_element(logits);
    for (const float v : logits) exact += std::exp(static_cast<double>(v) - largest);
    EXPECT_EQ(all.largest, largest);
    EXPECT_NEAR(all.log_sum, std::log(exact), 1e-6);
    std::vector<float> scores = logits;
    if (beam) {
      for (float& v : scores) v = log_probability(v, all.largest, all.log_sum);
    }
    reference::process(g, sequence, scores);
    for (int k = 0; k < degree; ++k) {
      const auto ids = split.part(k, vocab);
      std::vector<reference::Continuation> part;
      for (int i = ids.first; i < ids.first + ids.count; ++i) {
        const float v = scores[static_cast<size_t>(i)];
        part.push_back({.score = beam ? running + v : v, .beam = 0, .token = i});
      }
      const auto want = reference::best_continuations(std::move(part), static_cast<size_t>(count));
      const int32_t* got = split.view().of(k, 2);
      for (int i = 0; i < count; ++i) {
        const bool there = static_cast<size_t>(i) < want.size();
        ASSERT_EQ(candidate(got, i).id, there ? want[static_cast<size_t>(i)].token : -1)
            << "round " << round << " rank " << k << " of " << degree << " place " << i << " of " << count;
        if (!there) continue;
        const auto id = static_cast<size_t>(candidate(got, i).id);
        EXPECT_EQ(candidate(got, i).score, want[static_cast<size_t>(i)].score);
        EXPECT_EQ(candidate_logit(got, i), logits[id]);
      }
    }
    for (int other = 0; other < 2; ++other) EXPECT_EQ(split.view().of(degree - 1, other)[0], 0x7f7f7f7f);
  }
}

}  // namespace
}  // namespace tandem::kernels
