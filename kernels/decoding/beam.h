// One step of beam search (Hugging Face's, as reference/model/beam_search.h says it): the best continuations of one row, one
// block a row; then the bookkeeping of one source, one block a source.
#pragma once

#include <cstdint>

#include "kernels/decoding/choose.h"
#include "kernels/decoding/probability.h"
#include "kernels/decoding/quantile.h"
#include "kernels/decoding/rules.h"

namespace tandem::kernels {

inline constexpr int kMaxBeams = 32;
inline constexpr int kMaxKept = 128;  ///< continuations looked at a source, max(2, 1 + eos ids) * beams
inline constexpr int kListCapacity = 1024;
inline constexpr float kHopeless = -1e9f;  ///< transformers' score of what is no sequence

struct Continuation {
  float score = 0;
  int32_t id = 0;
};

struct BeamRowScratch {
  BlockScratch block;
  QuantileScratch quantile;
  uint32_t group[kMaxKept];
  uint32_t bound;
  uint32_t listed;
  Continuation list[kListCapacity];
};

TANDEM_COOPERATIVE inline bool better(const Continuation& a, const Continuation& b) {
  const uint32_t ka = order_key(a.score), kb = order_key(b.score);
  return ka != kb ? ka > kb : a.id < b.id;
}

/// A key that at least `count` of the threads' own largest keys reach, and so at least `count` elements; 0 when there are
/// too few threads to say. Near the true one where large elements are spread over threads.
template <class Block>
TANDEM_COOPERATIVE uint32_t lower_bound_of_top(Block& block, BeamRowScratch& s, uint32_t own, int count) {
  const int t = block.thread();
  const int groups = block.threads() < kMaxKept ? block.threads() : kMaxKept;
  const int size = block.threads() / groups;
  if (count > groups) return 0;
  s.block.each[t] = own;
  block.sync();
  uint32_t mine = 0;
  if (t < groups) {
    for (int i = 0; i < size; ++i) {
      const auto key = static_cast<uint32_t>(s.block.each[t * size + i]);
      mine = key > mine ? key : mine;
    }
    s.group[t] = mine;
  }
  block.sync();
  if (t < groups) {
    int rank = 0;
    for (int i = 0; i < groups; ++i) rank += s.group[i] > mine || (s.group[i] == mine && i < t) ? 1 : 0;
    if (rank == count - 1) s.bound = mine;
  }
  block.sync();
  return s.bound;
}

/// Fills the list with exactly `count` ids, those of the largest keys, of equal ones the lowest; for rows where too many
/// come near (nearly everything banned, or equal).
template <class Block, class Row, class Score>
TANDEM_COOPERATIVE void list_exactly(Block& block, BeamRowScratch& s, const Row& row, int count,
                                     Score score) {
  const auto keys = [&](auto&& take) {
    row.scan(block, [&](int i, float v) { take(order_key(score(i, v)), uint64_t{1}); });
  };
  const auto limit = static_cast<uint64_t>(row.vocab - count);
  const Quantile q = find_quantile(block, s.block, s.quantile, limit, keys);
  const uint64_t skipped = limit - q.below;  // of the keys at the boundary the *last* ones stay out
  if (block.thread() == 0) s.listed = 0;
  uint64_t at_boundary = 0;
  const int share = (row.vocab + block.threads() - 1) / block.threads();
  const int first = block.thread() * share;
  const int end = first + share < row.vocab ? first + share : row.vocab;
  for (int i = first; i < end; ++i) at_boundary += order_key(score(i, row.at(i))) == q.key ? 1 : 0;
  const uint64_t all = sum(block, s.block, at_boundary);
  uint64_t seen = sum_before(block, s.block, at_boundary);
  for (int i = first; i < end; ++i) {
    const uint32_t key = order_key(score(i, row.at(i)));
    if (key < q.key || (key == q.key && seen++ >= all - skipped)) continue;
    s.list[block.add(&s.listed, 1u)].id = i;
  }
  block.sync();
}

/// The `r.kept` best continuations of a row, best first, scored running + log-probability after the rules. r.kept must be at
/// most the vocabulary and kMaxKept. best: [r.kept].
template <class Block, class Row>
TANDEM_COOPERATIVE void best_continuations(Block& block, BeamRowScratch& s, const DecodingRules& r,
                                           const Marks& marks, float running, const Row& row,
                                           Continuation* best) {
  // Without penalties and forced tokens the rules only ban, and order among the rest is that of the logits: their
  // normaliser may come later, with the list, and the row is read twice instead of four times.
  const bool plain = !marks.any_penalised && marks.forced.count == 0 && !r.renormalise;
  uint32_t highest_logit = 0;
  uint32_t own = 0;
  const auto raise = [](uint32_t& key, float v) {
    const uint32_t k = order_key(v);
    key = k > key ? k : key;
  };
  row.scan(block, [&](int i, float v) {
    raise(highest_logit, v);
    if (plain) raise(own, ruled(r, marks, i, v));
  });
  const float highest = key_score(static_cast<uint32_t>(largest(block, s.block, highest_logit)));
  uint64_t own_mass = 0;
  double log_sum = 0;
  const auto ruled_score = [&](int i, float v) {
    return ruled(r, marks, i, log_probability(v, highest, log_sum));
  };
  if (!plain) {
    row.scan(block, [&](int, float v) { own_mass += mass(v - highest); });
    log_sum = log_mass(sum(block, s.block, own_mass));
    row.scan(block, [&](int i, float v) { raise(own, ruled_score(i, v)); });
  }
  const uint32_t bound = lower_bound_of_top(block, s, own, r.kept);
  const float highest_score = key_score(static_cast<uint32_t>(largest(block, s.block, own)));
  // Two logits a rounding apart may have equal scores: among the plain ones those just under the bound come along.
  const float reach = plain && bound > order_key(never())
                          ? key_score(bound) - fabsf(key_score(bound)) * 0x1p-20f - 0x1p-20f
                          : 0;
  const uint32_t least = plain && bound > order_key(never()) ? order_key(reach) : bound;

  if (block.thread() == 0) s.listed = 0;
  block.sync();
  uint64_t second = 0;
  own_mass = 0;
  row.scan(block, [&](int i, float v) {
    const float score = plain ? ruled(r, marks, i, v) : ruled_score(i, v);
    if (plain) own_mass += mass(v - highest);
    if (r.renormalise) second += mass(score - highest_score);
    if (order_key(score) < least) return;
    const uint32_t place = block.add(&s.listed, 1u);
    if (place < kListCapacity) s.list[place].id = i;
  });
  if (plain) log_sum = log_mass(sum(block, s.block, own_mass));
  const double again = r.renormalise ? log_mass(sum(block, s.block, second)) : 0;
  block.sync();
  const auto final_score = [&](int i, float v) {
    const float score = ruled_score(i, v);
    return running + (r.renormalise ? log_probability(score, highest_score, again) : score);
  };
  if (s.listed > kListCapacity) {
    block.sync();  // everyone has read the count that is counted anew
    list_exactly(block, s, row, r.kept, final_score);
  }
  const int count = static_cast<int>(s.listed);
  for (int i = block.thread(); i < count; i += block.threads()) {
    s.list[i].score = final_score(s.list[i].id, row.at(s.list[i].id));
  }
  block.sync();
  for (int i = block.thread(); i < count; i += block.threads()) {
    int rank = 0;
    for (int j = 0; j < count; ++j) rank += better(s.list[j], s.list[i]) ? 1 : 0;
    if (rank < r.kept) best[rank] = s.list[i];
  }
}

}  // namespace tandem::kernels
