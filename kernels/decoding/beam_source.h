// The bookkeeping of one source after its beams' continuations are known: which go on, which have finished, whether any may
// still improve. One block a source.
#pragma once

#include <cstdint>

#include "kernels/decoding/beam.h"
#include "kernels/decoding/split.h"

namespace tandem::kernels {

/// One source's share of the search's state, in global memory. Beams are rows of the decoder, `capacity` tokens each.
struct BeamSource {
  int first_row = 0;  ///< row of beam 0 among all sources' rows
  int position = 0;   ///< tokens generated before this step
  int64_t capacity = 0;
  const Continuation* best = nullptr;  ///< [beams, kept], or null where ranks split the vocabulary
  RankLists ranks = {};                ///< then instead, of all sources' rows
  float* running = nullptr;            ///< [beams] scores, best first
  int32_t* history = nullptr;          ///< [beams, capacity] generated ids
  int32_t* ancestry =
      nullptr;  ///< [beams, capacity] row whose cache holds the token, see DecodeSelfAttentionParams
  int32_t* next_ids = nullptr;    ///< [beams]
  int32_t* finished = nullptr;    ///< [beams] 0 or 1, all alike: the source has ended
  int32_t* hypotheses = nullptr;  ///< [beams, capacity] finished sequences, by slot
  int32_t* lengths = nullptr;     ///< [beams] of them, by slot; 0: none yet
  int32_t* slots = nullptr;       ///< [beams] slot of the best, the second, ...
  float* scores = nullptr;        ///< [beams] of the best, the second, ...
};

struct BeamSourceScratch {
  Continuation all[kMaxBeams * kMaxKept];
  Continuation next[kMaxKept];
  int32_t parent[kMaxKept];    // beam that `next` continues
  float open_score[kMaxKept];  // hopeless for what has finished
  bool ended[kMaxKept];
  int32_t go_on[kMaxBeams];     // index into next
  int32_t best[2 * kMaxBeams];  // by rank: an old rank, or beams + index into next
  float new_score[2 * kMaxBeams];
  int32_t slot[kMaxBeams];
  bool full;
};

TANDEM_COOPERATIVE inline float penalised(const DecodingRules& r, float score, int generated) {
  return score / std::bit_cast<float>(r.table[r.lengths.at + generated]);
}

/// The kept best of all beams' continuations, and which of them end.
template <class Block>
TANDEM_COOPERATIVE void merge_continuations(Block& block, BeamSourceScratch& s, const DecodingRules& r,
                                            const BeamSource& source) {
  const int n = r.beams * r.kept;
  if (source.best == nullptr) {
    for (int b = 0; b < r.beams; ++b)
      merge_ranks(block, source.ranks, source.first_row + b, r.kept, s.all + b * r.kept);
  } else {
    for (int i = block.thread(); i < n; i += block.threads()) s.all[i] = source.best[i];
  }
  block.sync();
  for (int i = block.thread(); i < n; i += block.threads()) {
    const uint32_t mine = order_key(s.all[i].score);
    int rank = 0;
    for (int j = 0; j < n; ++j) {
      const uint32_t other = order_key(s.all[j].score);
      rank += other > mine || (other == mine && j < i) ? 1 : 0;
    }
    if (rank >= r.kept) continue;
    const bool ended = listed(r, r.eos, s.all[i].id) || source.position + 2 >= r.max_length;
    s.next[rank] = s.all[i];
    s.parent[rank] = i / r.kept;
    s.ended[rank] = ended;
    s.open_score[rank] = s.all[i].score + (ended ? kHopeless : 0.0f);
  }
  block.sync();
}

/// Ranks of those that go on, and of old and new finished sequences together.
template <class Block>
TANDEM_COOPERATIVE void rank_beams(Block& block, BeamSourceScratch& s, const DecodingRules& r,
                                   const BeamSource& source) {
  const int k = r.beams;
  if (block.thread() == 0) {
    s.full = true;
    for (int i = 0; i < k; ++i) s.full = s.full && source.lengths[i] > 0;
  }
  for (int i = block.thread(); i < 2 * k; i += block.threads()) {
    s.new_score[i] = i < k ? source.scores[i] : penalised(r, s.next[i - k].score, source.position + 1);
  }
  block.sync();
  for (int i = block.thread(); i < r.kept; i += block.threads()) {
    int rank = 0;
    for (int j = 0; j < r.kept; ++j) {
      rank += s.open_score[j] > s.open_score[i] || (s.open_score[j] == s.open_score[i] && j < i) ? 1 : 0;
    }
    if (rank < k) s.go_on[rank] = i;
  }
  // Only the best `beams` continuations may finish; the others are there so that enough go on.
  const bool closed = s.full && r.stop_when_full;
  const auto counts = [&](int i) { return i < k || (s.ended[i - k] && !closed); };
  for (int i = block.thread(); i < 2 * k; i += block.threads()) {
    if (!counts(i)) continue;
    int rank = 0;
    for (int j = 0; j < 2 * k; ++j) {
      if (!counts(j)) continue;
      rank += s.new_score[j] > s.new_score[i] || (s.new_score[j] == s.new_score[i] && j < i) ? 1 : 0;
    }
    if (rank < k) s.best[rank] = i;
  }
  block.sync();
}

/// Finished sequences that are new take the slots of those that fell out.
template <class Block>
TANDEM_COOPERATIVE void keep_finished(Block& block, BeamSourceScratch& s, const DecodingRules& r,
                                      const BeamSource& source) {
  const int k = r.beams;
  if (block.thread() == 0) {
    uint32_t used = 0;
    for (int i = 0; i < k; ++i) {
      if (s.best[i] < k) used |= 1u << source.slots[s.best[i]];
    }
    int free = 0;
    for (int i = 0; i < k; ++i) {
      if (s.best[i] < k) {
        s.slot[i] = source.slots[s.best[i]];
        continue;
      }
      while ((used >> free & 1u) != 0) ++free;
      s.slot[i] = free++;
    }
    for (int i = 0; i < k; ++i) {
      source.slots[i] = s.slot[i];
      source.scores[i] = s.new_score[s.best[i]];
      if (s.best[i] >= k) source.lengths[s.slot[i]] = source.position + 1;
    }
  }
  block.sync();
  for (int i = 0; i < k; ++i) {
    if (s.best[i] < k) continue;
    const int from = s.best[i] - k;
    int32_t* to = source.hypotheses + s.slot[i] * source.capacity;
    const int32_t* tokens = source.history + s.parent[from] * source.capacity;
    for (int t = block.thread(); t < source.position; t += block.threads()) to[t] = tokens[t];
    if (block.thread() == 0) to[source.position] = s.next[from].id;
  }
}

/// The rows become those of the beams that go on. In place: a thread holds a whole column.
template <class Block>
TANDEM_COOPERATIVE void reorder_rows(Block& block, BeamSourceScratch& s, const DecodingRules& r,
                                     const BeamSource& source) {
  const int k = r.beams;
  block.sync();  // history has been read
  for (int t = block.thread(); t < source.position; t += block.threads()) {
    int32_t ids[kMaxBeams], rows[kMaxBeams];
    for (int i = 0; i < k; ++i) {
      ids[i] = source.history[i * source.capacity + t];
      rows[i] = source.ancestry[i * source.capacity + t];
    }
    for (int i = 0; i < k; ++i) {
      const int from = s.parent[s.go_on[i]];
      source.history[i * source.capacity + t] = ids[from];
      source.ancestry[i * source.capacity + t] = rows[from];
    }
  }
  for (int i = block.thread(); i < k; i += block.threads()) {
    source.history[i * source.capacity + source.position] = s.next[s.go_on[i]].id;
    source.ancestry[i * source.capacity + source.position] = source.first_row + s.parent[s.go_on[i]];
  }
}

/// Can a running beam still become better than the worst finished one? The heuristic of transformers'
/// _check_early_stop_heuristic.
TANDEM_COOPERATIVE inline bool can_improve(const DecodingRules& r, const BeamSource& source,
                                           float best_running) {
  const float possible =
      penalised(r, best_running, r.look_to_the_end ? r.max_length - 1 : source.position + 1);
  const float worst = source.scores[r.beams - 1];
  for (int i = 0; i < r.beams; ++i) {
    if (possible > (source.lengths[i] > 0 ? worst : kHopeless)) return true;
  }
  return false;
}

/// Advances a source that has not ended by one token.
template <class Block>
TANDEM_COOPERATIVE void advance_source(Block& block, BeamSourceScratch& s, const DecodingRules& r,
                                       const BeamSource& source) {
  merge_continuations(block, s, r, source);
  rank_beams(block, s, r, source);
  keep_finished(block, s, r, source);
  reorder_rows(block, s, r, source);
  if (block.thread() != 0) return;
  bool full = true;
  for (int i = 0; i < r.beams; ++i) full = full && source.lengths[i] > 0;
  const bool over = !can_improve(r, source, s.open_score[s.go_on[0]]) || (full && r.stop_when_full);
  for (int i = 0; i < r.beams; ++i) {
    source.running[i] = s.open_score[s.go_on[i]];
    source.next_ids[i] = over ? r.pad_id : s.next[s.go_on[i]].id;
    source.finished[i] = over ? 1 : 0;
  }
}

}  // namespace tandem::kernels
