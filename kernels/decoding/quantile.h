// Exact selection over a vocabulary: radix search in three rounds over 32-bit keys, by count or by mass.
#pragma once

#include <cstdint>

#include "harness/base/host_device.h"
#include "kernels/decoding/block.h"

namespace tandem::kernels {

inline constexpr int kRadixBins = 2048;

/// Shared memory of a search. 64-bit bins in halves: 32-bit atomics are native.
struct QuantileScratch {
  uint32_t low[kRadixBins];
  uint32_t high[kRadixBins];
  uint64_t found_below;
  uint32_t found_bin;
};

struct Quantile {
  uint32_t key = 0;    ///< the smallest key with: weight of all keys up to it > limit
  uint64_t below = 0;  ///< weight of the keys under it
};

/// scan(body) calls body(key, weight) for every element, the same ones in every round; their weights add up to more than
/// `limit`.
template <class Block, class Scan>
TANDEM_COOPERATIVE Quantile find_quantile(Block& block, BlockScratch& b, QuantileScratch& s, uint64_t limit,
                                          Scan scan) {
  const int per_thread = ceil_div(kRadixBins, block.threads());
  Quantile q;
  uint32_t known = 0;  // bits of the key that are decided
  for (int round = 0; round < 3; ++round) {
    const int shift = round == 0 ? 21 : round == 1 ? 10 : 0;
    const int bins = round == 2 ? 1024 : 2048;
    for (int i = block.thread(); i < bins; i += block.threads()) s.low[i] = s.high[i] = 0;
    block.sync();
    scan([&](uint32_t key, uint64_t weight) {
      if ((key & known) != q.key || weight == 0) return;
      const uint32_t bin = (key >> shift) & static_cast<uint32_t>(bins - 1);
      const auto low = static_cast<uint32_t>(weight);
      const uint32_t before = block.add(&s.low[bin], low);
      const uint32_t high = static_cast<uint32_t>(weight >> 32) + (before + low < before ? 1 : 0);
      if (high != 0) block.add(&s.high[bin], high);
    });
    block.sync();
    const auto weight_of = [&](int bin) { return static_cast<uint64_t>(s.high[bin]) << 32 | s.low[bin]; };
    const int first = block.thread() * per_thread;
    uint64_t own = 0;
    for (int i = first; i < first + per_thread && i < bins; ++i) own += weight_of(i);
    uint64_t below = q.below + sum_before(block, b, own);
    for (int i = first; i < first + per_thread && i < bins; ++i) {
      const uint64_t upto = below + weight_of(i);
      if (below <= limit && limit < upto) {
        s.found_bin = static_cast<uint32_t>(i);
        s.found_below = below;
      }
      below = upto;
    }
    block.sync();
    q.below = s.found_below;
    q.key |= s.found_bin << shift;
    known |= static_cast<uint32_t>(bins - 1) << shift;
    block.sync();  // the bins and what was found are written again
  }
  return q;
}

}  // namespace tandem::kernels
