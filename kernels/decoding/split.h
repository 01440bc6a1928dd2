// Choosing where ranks split the vocabulary: what a rank's part of a row says, and the choice from what all ranks said. Logits stay
// where they are; see RankChoices of the plan. One block a row.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "harness/base/host_device.h"
#include "kernels/decoding/beam.h"
#include "kernels/decoding/choose.h"

namespace tandem::kernels {

/// Ints of a candidate: the bits of an fp32 score, an id (-1: there are no more), and the bits of the logit.
inline constexpr int kCandidateInts = 3;

/// What all ranks brought, one below the other in their order.
struct RankLists {
  const float* sums = nullptr;  ///< [degree, rows, 2]: the largest logit, and the sum of exp(logit - largest)
  const int32_t* candidates = nullptr;  ///< [degree, rows, count, 3]: a rank's best of a row, best first
  int degree = 1;
  int rows = 0;
  int count = 0;

  TANDEM_COOPERATIVE const int32_t* of(int rank, int row) const {
    return candidates + (static_cast<int64_t>(rank) * rows + row) * count * kCandidateInts;
  }
};

TANDEM_COOPERATIVE inline Continuation candidate(const int32_t* list, int i) {
  return {.score = std::bit_cast<float>(list[i * kCandidateInts]), .id = list[i * kCandidateInts + 1]};
}
TANDEM_COOPERATIVE inline float candidate_logit(const int32_t* list, int i) {
  return std::bit_cast<float>(list[i * kCandidateInts + 2]);
}

TANDEM_COOPERATIVE inline void no_candidate(int32_t* list, int i) {
  list[i * kCandidateInts] = std::bit_cast<int32_t>(never());
  list[i * kCandidateInts + 1] = -1;
  list[i * kCandidateInts + 2] = 0;
}

struct RowSum {
  float largest = 0;
  float sum = 0;
};

/// Of one rank's part of a row.
template <class Block, class Row>
TANDEM_COOPERATIVE RowSum row_sum(Block& block, BlockScratch& s, const Row& row) {
  uint32_t own_key = 0;
  row.scan(block, [&](int, float v) {
    const uint32_t key = order_key(v);
    own_key = key > own_key ? key : own_key;
  });
  RowSum found{.largest = key_score(static_cast<uint32_t>(largest(block, s, own_key)))};
  uint64_t own = 0;
  row.scan(block, [&](int, float v) { own += mass(v - found.largest); });
  const double total = static_cast<double>(sum(block, s, own));
  found.sum = static_cast<float>(total / static_cast<double>(uint64_t{1} << kMassBits));
  return found;
}

/// The largest logit of the whole row, and the logarithm of the sum of exp(logit - largest).
struct LogSum {
  float largest = 0;
  double log_sum = 0;
};
/// In the order of ranks: every rank gets the same bits.
TANDEM_COOPERATIVE inline LogSum log_sum_of_ranks(const RankLists& ranks, int row) {
  const auto at = [&](int rank) { return ranks.sums + 2 * (static_cast<int64_t>(rank) * ranks.rows + row); };
  LogSum all{.largest = never()};
  for (int k = 0; k < ranks.degree; ++k) all.largest = at(k)[0] > all.largest ? at(k)[0] : all.largest;
  double total = 0;
  for (int k = 0; k < ranks.degree; ++k) {
    // A part of nothing but -infinity has no sum, and no difference from the largest.
    if (at(k)[1] > 0)
      total += at(k)[1] * exp(static_cast<double>(at(k)[0]) - static_cast<double>(all.largest));
  }
  all.log_sum = log(total);
  return all;
}

/// What the scores of candidates are: of beams running + log-probability, otherwise the logit, after the rules.
struct RankScores {
  int first_id = 0;  ///< of the rank's part of the row
  bool beam = false;
  float running = 0;
  LogSum all = {};
};

/// The `count` best ids of a rank's part of a row, best first and of equal scores the lowest id first. `out` is [count, 3], all of
/// it written. count: 1 to kListCapacity.
template <class Block, class Row>
TANDEM_COOPERATIVE void best_of_part(Block& block, BeamRowScratch& s, const DecodingRules& r,
                                     const Marks& marks, const RankScores& of, const Row& row, int count,
                                     int32_t* out) {
  const auto score = [&](int i, float v) {
    const float before = of.beam ? log_probability(v, of.all.largest, of.all.log_sum) : v;
    const float after = ruled(r, marks, of.first_id + i, before);
    return of.beam ? of.running + after : after;
  };
  const int wanted = count < row.vocab ? count : row.vocab;
  uint32_t own = 0;
  row.scan(block, [&](int i, float v) {
    const uint32_t key = order_key(score(i, v));
    own = key > own ? key : own;
  });
  if (block.thread() == 0) s.top.listed = 0;
  const uint32_t bound = wanted > 0 ? lower_bound_of_top(block, s.block, s.top, own, wanted) : 0;
  block.sync();
  row.scan(block, [&](int i, float v) {
    const float after = score(i, v);
    if (order_key(after) >= bound) list_candidate(block, s.top, {.score = after, .id = i});
  });
  block.sync();
  if (s.top.listed > kListCapacity) {
    block.sync();  // everyone has read the count that is counted anew
    list_exactly(block, s, row, wanted, score);
    for (int i = block.thread(); i < wanted; i += block.threads())
      s.top.list[i].score = score(s.top.list[i].id, row.at(s.top.list[i].id));
    block.sync();
  }
  const int found = static_cast<int>(s.top.listed);
  for (int i = block.thread(); i < found; i += block.threads()) {
    int rank = 0;
    for (int j = 0; j < found; ++j) rank += better(s.top.list[j], s.top.list[i]) ? 1 : 0;
    if (rank >= wanted) continue;
    out[rank * kCandidateInts] = std::bit_cast<int32_t>(s.top.list[i].score);
    out[rank * kCandidateInts + 1] = of.first_id + s.top.list[i].id;
    out[rank * kCandidateInts + 2] = std::bit_cast<int32_t>(row.at(s.top.list[i].id));
  }
  for (int i = wanted + block.thread(); i < count; i += block.threads()) no_candidate(out, i);
}

/// The next token of a row from all ranks' candidates, at most kListCapacity together: the best, or with r.sample a draw with
/// `uniform` in [0, 1). Ids that no rank brought cannot come.
template <class Block>
TANDEM_COOPERATIVE Choice choose_of_ranks(Block& block, RowScratch& s, const DecodingRules& r, double uniform,
                                          const RankLists& ranks, int row) {
  const auto each = [&](auto&& body) {
    for (int i = block.thread(); i < ranks.degree * ranks.count; i += block.threads()) {
      const int32_t* list = ranks.of(i / ranks.count, row);
      const Continuation c = candidate(list, i % ranks.count);
      if (c.id >= 0) body(c, list, i % ranks.count);
    }
  };
  if (block.thread() == 0) s.top.listed = s.top.bound = 0;  // a bound of 0: fewer than top_k ids
  block.sync();
  uint64_t best = 0;
  each([&](const Continuation& c, const int32_t*, int) {
    const uint64_t key = candidate_key(c.score, c.id);
    best = key > best ? key : best;
    list_candidate(block, s.top, c);
  });
  best = largest(block, s.block, best);
  Choice chosen{.id = candidate_id(best)};
  if (r.sample) {
    const float top = key_score(static_cast<uint32_t>(best >> 32));
    chosen.id = draw_from_list(block, s, r, top, uniform, chosen.id);
  }
  block.sync();
  each([&](const Continuation& c, const int32_t* list, int i) {
    if (c.id == chosen.id) s.top.list[0].score = candidate_logit(list, i);
  });
  block.sync();
  const LogSum all = log_sum_of_ranks(ranks, row);
  chosen.log_probability = log_probability(s.top.list[0].score, all.largest, all.log_sum);
  return chosen;
}

/// A row's `kept` best of all ranks' candidates, best first, into `best`. A thread ranks a candidate: it knows its place in its own
/// rank's list, and finds that in the others', which are sorted too.
template <class Block>
TANDEM_COOPERATIVE void merge_ranks(Block& block, const RankLists& ranks, int row, int kept,
                                    Continuation* best) {
  for (int i = block.thread(); i < ranks.degree * ranks.count; i += block.threads()) {
    const int mine = i / ranks.count;
    int place = i % ranks.count;
    const Continuation c = candidate(ranks.of(mine, row), place);
    if (c.id < 0) continue;
    for (int k = 0; k < ranks.degree && place < kept; ++k) {
      if (k == mine) continue;
      int low = 0, high = ranks.count;  // of those that are better
      while (low < high) {
        const int middle = (low + high) / 2;
        const Continuation other = candidate(ranks.of(k, row), middle);
        other.id >= 0 && better(other, c) ? low = middle + 1 : high = middle;
      }
      place += low;
    }
    if (place < kept) best[place] = c;
  }
}

}  // namespace tandem::kernels
