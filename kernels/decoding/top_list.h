// The candidates at the top of a row, without a histogram: threads know their own largest keys, and those bound the rest.
#pragma once

#include <cstdint>

#include "kernels/decoding/block.h"
#include "kernels/decoding/probability.h"

namespace tandem::kernels {

inline constexpr int kTopGroups = 128;      ///< of threads; at most so many can be asked for
inline constexpr int kListCapacity = 1024;  ///< candidates; more need another way

/// Without initialisers: it lies in shared memory.
struct Continuation {
  float score;
  int32_t id;
};

struct TopScratch {
  uint32_t group[kTopGroups];
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
TANDEM_COOPERATIVE uint32_t lower_bound_of_top(Block& block, BlockScratch& b, TopScratch& s, uint32_t own,
                                               int count) {
  const int t = block.thread();
  const int groups = block.threads() < kTopGroups ? block.threads() : kTopGroups;
  const int size = block.threads() / groups;
  if (count > groups) return 0;
  b.each[t] = own;
  block.sync();
  uint32_t mine = 0;
  if (t < groups) {
    for (int i = 0; i < size; ++i) {
      const auto key = static_cast<uint32_t>(b.each[t * size + i]);
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

/// Counts a candidate, and keeps it while there is room. `listed` must have been set to 0.
template <class Block>
TANDEM_COOPERATIVE void list_candidate(Block& block, TopScratch& s, const Continuation& candidate) {
  const uint32_t place = block.add(&s.listed, 1u);
  if (place < kListCapacity) s.list[place] = candidate;
}

}  // namespace tandem::kernels
