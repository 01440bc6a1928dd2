// The next token of one row: the likeliest, or a draw. One block a row.
#pragma once

#include <cstdint>

#include "harness/base/host_device.h"
#include "harness/base/random.h"
#include "harness/base/tensor.h"
#include "kernels/decoding/probability.h"
#include "kernels/decoding/quantile.h"
#include "kernels/decoding/rules.h"
#include "kernels/decoding/top_list.h"

namespace tandem::kernels {

struct RowScratch {
  BlockScratch block;
  QuantileScratch quantile;
  TopScratch top;
  uint64_t weight[kListCapacity];
  int32_t chosen;
};

struct Choice {
  int32_t id = 0;
  float log_probability = 0;  ///< under the model, before the rules
};

/// As an arg-max key: the larger score, then the lower id.
TANDEM_COOPERATIVE inline uint64_t candidate_key(float score, int32_t id) {
  return static_cast<uint64_t>(order_key(score)) << 32 | static_cast<uint32_t>(~id);
}
TANDEM_COOPERATIVE inline int32_t candidate_id(uint64_t key) {
  return static_cast<int32_t>(~static_cast<uint32_t>(key));
}

/// What sampling looks at: ids with score keys from `least` up, but not the first `skipped` of those at `least`.
struct Nucleus {
  float highest = 0;
  uint32_t least = 0;
  uint64_t skipped = 0;
  uint64_t total = 0;  ///< mass
};

/// `scan(body)` calls body(id, score) for all ids, `score(id)` gives one; both after the rules.
template <class Block, class Scan>
TANDEM_COOPERATIVE Nucleus find_nucleus(Block& block, RowScratch& s, const DecodingRules& r, float highest,
                                        Scan scan) {
  Nucleus n{.highest = highest};
  if (r.top_k > 0 && r.top_k < r.vocab) {
    const auto counted = [&](auto&& take) { scan([&](int, float v) { take(order_key(v), uint64_t{1}); }); };
    n.least =
        find_quantile(block, s.block, s.quantile, static_cast<uint64_t>(r.vocab - r.top_k), counted).key;
  }
  const auto weighed = [&](auto&& take) {
    scan([&](int, float v) {
      const uint32_t key = order_key(v);
      if (key >= n.least) take(key, mass((v - highest) * r.inverse_temperature));
    });
  };
  uint64_t own = 0;
  weighed([&](uint32_t, uint64_t weight) { own += weight; });
  n.total = sum(block, s.block, own);
  // The least likely go, as long as what is gone stays within 1 - top_p; of equal ones the lower id goes first.
  const auto limit = static_cast<uint64_t>((1 - static_cast<double>(r.top_p)) * static_cast<double>(n.total));
  if (r.top_p >= 1 || limit >= n.total) return n;
  const Quantile q = find_quantile(block, s.block, s.quantile, limit, weighed);
  const uint64_t one = mass((key_score(q.key) - highest) * r.inverse_temperature);
  n.least = q.key;
  n.skipped = (limit - q.below) / one;
  n.total -= q.below + n.skipped * one;
  return n;
}

/// The id at which the running mass of the nucleus, in the order of ids, passes `uniform` of its total; `fallback` when
/// there is no mass.
template <class Block, class Score>
TANDEM_COOPERATIVE int32_t draw(Block& block, RowScratch& s, const DecodingRules& r, const Nucleus& n,
                                double uniform, int32_t fallback, Score score) {
  const int share = ceil_div(r.vocab, block.threads());
  const int first = block.thread() * share;
  const int end = first + share < r.vocab ? first + share : r.vocab;
  if (block.thread() == 0) s.chosen = fallback;
  uint64_t skipped = 0;  // of those at `least`, the ones before this thread's
  if (n.skipped > 0) {
    uint64_t equal = 0;
    for (int i = first; i < end; ++i) equal += order_key(score(i)) == n.least ? 1 : 0;
    skipped = sum_before(block, s.block, equal);
  }
  const auto weights = [&](auto&& take) {
    uint64_t seen = skipped;
    for (int i = first; i < end; ++i) {
      const float v = score(i);
      const uint32_t key = order_key(v);
      if (key < n.least || (key == n.least && seen++ < n.skipped)) continue;
      take(i, mass((v - n.highest) * r.inverse_temperature));
    }
  };
  uint64_t own = 0;
  weights([&](int, uint64_t weight) { own += weight; });
  uint64_t before = sum_before(block, s.block, own);
  const auto target = static_cast<uint64_t>(uniform * static_cast<double>(n.total));
  if (before <= target && target < before + own) {
    weights([&](int i, uint64_t weight) {
      if (before <= target && target < before + weight) s.chosen = i;
      before += weight;
    });
  }
  block.sync();
  return s.chosen;
}

/// The same draw where the list holds every id down to the top_k-th: everything after that happens in shared memory, each
/// thread looking at all others' candidates.
template <class Block>
TANDEM_COOPERATIVE int32_t draw_from_list(Block& block, RowScratch& s, const DecodingRules& r, float highest,
                                          double uniform, int32_t fallback) {
  const int count = static_cast<int>(s.top.listed);
  const auto each = [&](auto&& body) {
    for (int i = block.thread(); i < count; i += block.threads()) body(i);
  };
  const auto sum_if = [&](auto&& holds) {
    uint64_t total = 0;
    for (int j = 0; j < count; ++j) total += holds(j) ? s.weight[j] : 0;
    return total;
  };
  if (block.thread() == 0) s.chosen = fallback;
  each([&](int i) {
    int rank = 0;
    for (int j = 0; j < count; ++j) rank += better(s.top.list[j], s.top.list[i]) ? 1 : 0;
    if (rank == r.top_k - 1) s.top.bound = order_key(s.top.list[i].score);
  });
  block.sync();
  uint64_t own = 0;
  each([&](int i) {
    const float score = s.top.list[i].score;
    s.weight[i] = order_key(score) >= s.top.bound ? mass((score - highest) * r.inverse_temperature) : 0;
    own += s.weight[i];
  });
  uint64_t total = sum(block, s.block, own);
  if (r.top_p < 1) {
    // From the least likely up, of equal ones the lower id first: what stays within 1 - top_p goes.
    const auto limit = static_cast<uint64_t>((1 - static_cast<double>(r.top_p)) * static_cast<double>(total));
    own = 0;
    each([&](int i) {
      const Continuation& mine = s.top.list[i];
      const uint64_t upto = sum_if([&](int j) {
        const uint32_t key = order_key(s.top.list[j].score), my_key = order_key(mine.score);
        return key < my_key || (key == my_key && s.top.list[j].id <= mine.id);
      });
      s.quantile.low[i] = upto > limit || limit >= total ? 1 : 0;
      own += s.quantile.low[i] != 0 ? s.weight[i] : 0;
    });
    total = sum(block, s.block, own);
    each([&](int i) { s.weight[i] = s.quantile.low[i] != 0 ? s.weight[i] : 0; });
    block.sync();
  }
  const auto target = static_cast<uint64_t>(uniform * static_cast<double>(total));
  each([&](int i) {
    const uint64_t before = sum_if([&](int j) { return s.top.list[j].id < s.top.list[i].id; });
    if (before <= target && target < before + s.weight[i]) s.chosen = s.top.list[i].id;
  });
  block.sync();
  return s.chosen;
}

/// Logits are finite or -infinity; a NaN never wins. `uniform` in [0, 1) when sampling.
template <class Block, class Row>
TANDEM_COOPERATIVE Choice choose(Block& block, RowScratch& s, const DecodingRules& r, const Marks& marks,
                                 double uniform, const Row& row) {
  uint32_t highest_logit = 0;
  uint64_t best = 0;  // its upper half is this thread's largest key
  row.scan(block, [&](int i, float v) {
    const uint32_t key = order_key(v);
    highest_logit = key > highest_logit ? key : highest_logit;
    const uint64_t candidate = candidate_key(ruled(r, marks, i, v), i);
    best = candidate > best ? candidate : best;
  });
  const bool listing = r.sample && r.top_k > 0 && r.top_k <= kTopGroups && r.top_k < r.vocab;
  uint32_t bound = 0;
  if (listing) {
    if (block.thread() == 0) s.top.listed = 0;
    bound = lower_bound_of_top(block, s.block, s.top, static_cast<uint32_t>(best >> 32), r.top_k);
  }
  const float highest = key_score(static_cast<uint32_t>(largest(block, s.block, highest_logit)));
  best = largest(block, s.block, best);
  uint64_t own = 0;
  row.scan(block, [&](int i, float v) {
    own += mass(v - highest);
    if (!listing) return;
    const float score = ruled(r, marks, i, v);
    if (order_key(score) >= bound) list_candidate(block, s.top, {.score = score, .id = i});
  });
  const uint64_t total = sum(block, s.block, own);

  Choice c{.id = candidate_id(best)};
  const float top = key_score(static_cast<uint32_t>(best >> 32));
  if (listing && s.top.listed <= kListCapacity) {
    c.id = draw_from_list(block, s, r, top, uniform, c.id);
  } else if (r.sample) {
    const auto score = [&](int i) { return ruled(r, marks, i, row.at(i)); };
    const auto scan = [&](auto&& take) {
      row.scan(block, [&](int i, float v) { take(i, ruled(r, marks, i, v)); });
    };
    c.id = draw(block, s, r, find_nucleus(block, s, r, top, scan), uniform, c.id, score);
  }
  c.log_probability = log_probability(row.at(c.id), highest, log_mass(total));
  return c;
}

/// Uniform of one draw, as many bits as a double holds.
TANDEM_COOPERATIVE inline double draw_uniform(uint64_t key, int step) {
  return static_cast<double>(random_bits(key, static_cast<uint64_t>(step)) >> 11) * 0x1p-53;
}

}  // namespace tandem::kernels
