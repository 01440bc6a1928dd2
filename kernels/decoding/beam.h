// One step of beam search (Hugging Face's, as reference/model/beam_search.h says it): the best continuations of one row, one
// block a row; then the bookkeeping of one source, one block a source.
#pragma once

#include <cstdint>

#include "harness/base/host_device.h"
#include "kernels/decoding/choose.h"
#include "kernels/decoding/probability.h"
#include "kernels/decoding/quantile.h"
#include "kernels/decoding/rules.h"
#include "kernels/decoding/top_list.h"

namespace tandem::kernels {

inline constexpr int kMaxBeams = 32;
inline constexpr int kMaxKept =
    kTopGroups;                            ///< continuations looked at a source, max(2, 1 + eos ids) * beams
inline constexpr float kHopeless = -1e9f;  ///< transformers' score of what is no sequence

struct BeamRowScratch {
  BlockScratch block;
  QuantileScratch quantile;
  TopScratch top;
};

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
  if (block.thread() == 0) s.top.listed = 0;
  uint64_t at_boundary = 0;
  const int share = ceil_div(row.vocab, block.threads());
  const int first = block.thread() * share;
  const int end = first + share < row.vocab ? first + share : row.vocab;
  for (int i = first; i < end; ++i) at_boundary += order_key(score(i, row.at(i))) == q.key ? 1 : 0;
  const uint64_t all = sum(block, s.block, at_boundary);
  uint64_t seen = sum_before(block, s.block, at_boundary);
  for (int i = first; i < end; ++i) {
    const uint32_t key = order_key(score(i, row.at(i)));
    if (key < q.key || (key == q.key && seen++ >= all - skipped)) continue;
    s.top.list[block.add(&s.top.listed, 1u)].id = i;
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
  const uint32_t bound = lower_bound_of_top(block, s.block, s.top, own, r.kept);
  const float highest_score = key_score(static_cast<uint32_t>(largest(block, s.block, own)));
  // Two logits a rounding apart may have equal scores: among the plain ones those just under the bound come along.
  const float reach = plain && bound > order_key(never())
                          ? key_score(bound) - fabsf(key_score(bound)) * 0x1p-20f - 0x1p-20f
                          : 0;
  const uint32_t least = plain && bound > order_key(never()) ? order_key(reach) : bound;

  if (block.thread() == 0) s.top.listed = 0;
  block.sync();
  uint64_t second = 0;
  own_mass = 0;
  row.scan(block, [&](int i, float v) {
    const float score = plain ? ruled(r, marks, i, v) : ruled_score(i, v);
    if (plain) own_mass += mass(v - highest);
    if (r.renormalise) second += mass(score - highest_score);
    if (order_key(score) < least) return;
    list_candidate(block, s.top, {.score = score, .id = i});
  });
  if (plain) log_sum = log_mass(sum(block, s.block, own_mass));
  const double again = r.renormalise ? log_mass(sum(block, s.block, second)) : 0;
  block.sync();
  const auto final_score = [&](int i, float v) {
    const float score = ruled_score(i, v);
    return running + (r.renormalise ? log_probability(score, highest_score, again) : score);
  };
  if (s.top.listed > kListCapacity) {
    block.sync();  // everyone has read the count that is counted anew
    list_exactly(block, s, row, r.kept, final_score);
  }
  const int count = static_cast<int>(s.top.listed);
  for (int i = block.thread(); i < count; i += block.threads()) {
    s.top.list[i].score = final_score(s.top.list[i].id, row.at(s.top.list[i].id));
  }
  block.sync();
  for (int i = block.thread(); i < count; i += block.threads()) {
    int rank = 0;
    for (int j = 0; j < count; ++j) rank += better(s.top.list[j], s.top.list[i]) ? 1 : 0;
    if (rank < r.kept) best[rank] = s.top.list[i];
  }
}

}  // namespace tandem::kernels
