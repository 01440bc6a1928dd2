// Index arithmetic of the attention kernels, the same functions on the host (attention_index_test.cc checks them
// exhaustively) and on the device.
#pragma once

#include <cstdint>

#include "harness/base/host_device.h"

namespace tandem::kernels {

// ---- T5's relative bias -----------------------------------------------------------------------------------------------

inline constexpr int kMaxBuckets = 128;
inline constexpr int kMaxDistance = 1024;

/// Column of a head's distance table for (key position - query position): the table has 2 * max_distance + 1 entries.
TANDEM_HD constexpr int distance_bias_index(int key_minus_query, int max_distance) {
  const int d = key_minus_query < -max_distance
                    ? -max_distance
                    : (key_minus_query > max_distance ? max_distance : key_minus_query);
  return d + max_distance;
}

/// Buckets as the distances at which they begin, so that the device needs no logarithm: at or before the query, bucket
/// `before[i]..` and after it `after[i]..`. Filled from relative_bucket(), which is monotone on either side of zero.
struct BucketStarts {
  int16_t before_first[kMaxBuckets];  ///< smallest distance n >= 0 of the i-th bucket of -n
  int16_t after_first[kMaxBuckets];   ///< smallest distance n >= 1 of the i-th bucket of +n
  uint8_t before_bucket[kMaxBuckets];
  uint8_t after_bucket[kMaxBuckets];
  int before_count = 0;
  int after_count = 0;
};

/// The bucket of a clamped (key position - query position).
TANDEM_HD constexpr int bucket_from_starts(const BucketStarts& s, int key_minus_query) {
  const bool after = key_minus_query > 0;
  const int n = after ? key_minus_query : -key_minus_query;
  const int count = after ? s.after_count : s.before_count;
  const int16_t* first = after ? s.after_first : s.before_first;
  const uint8_t* bucket = after ? s.after_bucket : s.before_bucket;
  int i = 0;
  while (i + 1 < count && n >= first[i + 1]) ++i;
  return bucket[i];
}

/// Starts of the buckets of `bucket_of(key - query)` for distances up to max_distance.
template <typename BucketOf>
BucketStarts make_bucket_starts(BucketOf bucket_of, int max_distance) {
  BucketStarts s{};
  for (int n = 0; n <= max_distance; ++n) {
    const int b = bucket_of(-n);
    if (s.before_count == 0 || s.before_bucket[s.before_count - 1] != b) {
      s.before_first[s.before_count] = static_cast<int16_t>(n);
      s.before_bucket[s.before_count++] = static_cast<uint8_t>(b);
    }
  }
  for (int n = 1; n <= max_distance; ++n) {
    const int b = bucket_of(n);
    if (s.after_count == 0 || s.after_bucket[s.after_count - 1] != b) {
      s.after_first[s.after_count] = static_cast<int16_t>(n);
      s.after_bucket[s.after_count++] = static_cast<uint8_t>(b);
    }
  }
  return s;
}

/// How one tile of scores (queries q0 .. q0 + m - 1, keys k0 .. k0 + n - 1) meets the bias: every distance at or beyond
/// one end of the table (one constant), or a lookup in the extended table.
enum class BiasTile : uint8_t { kBefore, kNear, kAfter };

TANDEM_HD constexpr BiasTile bias_tile(int q0, int m, int k0, int n, int max_distance) {
  if (k0 + n - 1 - q0 <= -max_distance) return BiasTile::kBefore;
  if (k0 - (q0 + m - 1) >= max_distance) return BiasTile::kAfter;
  return BiasTile::kNear;
}

/// The table a block keeps in shared memory: the distance table with both ends repeated `margin` times, so that a lookup
/// within a near tile needs no clamping. margin >= m + n - 2 covers every distance of a near tile.
TANDEM_HD constexpr int extended_bias_size(int max_distance, int margin) {
  return 2 * (max_distance + margin) + 1;
}
TANDEM_HD constexpr int extended_bias_index(int key_minus_query, int max_distance, int margin) {
  return key_minus_query + max_distance + margin;
}

// ---- Tiles of the encoder's kernels -----------------------------------------------------------------------------------

/// Key tiles [0, result) that queries q0 .. q0 + m - 1 of a sequence visit.
TANDEM_HD constexpr int key_tiles(int length, int q0, int m, int n, bool causal) {
  const int last = causal && q0 + m < length ? q0 + m : length;
  return ceil_div(last, n);
}

/// Does key tile k0 .. k0 + n - 1 hold a key that some query of q0 .. q0 + m - 1 must not see?
TANDEM_HD constexpr bool tile_needs_mask(int length, int q0, int k0, int n, bool causal) {
  return k0 + n > length || (causal && k0 + n - 1 > q0);
}

/// 16-byte chunk of a row of a shared-memory tile, permuted so that the eight rows an ldmatrix reads at one chunk fall
/// into different banks. chunks is the number of 16-byte chunks a row: 4, 8 or a multiple of 8.
TANDEM_HD constexpr int swizzled_chunk(int row, int chunk, int chunks) {
  return chunks == 4 ? chunk ^ ((row >> 1) & 3) : chunk ^ (row & 7);
}

/// Work of a persistent grid: item of block `block` in its `round`, or one at or beyond `total` when it has none. Rounds
/// rotate, so that a block does not meet the same query tile of every sequence (the last ones are empty when ragged).
TANDEM_HD constexpr int64_t persistent_item(int64_t round, int block, int blocks) {
  return round * blocks + (block + round) % blocks;
}

// ---- Workers of a decode step -----------------------------------------------------------------------------------------

inline constexpr int kDecodeWarps = 4;  ///< warps of a decode block, but of long heads
inline constexpr int kDecodeLog2Warps = 2;
/// Of few pairs of long heads in 16 bits: a warp holds 16 keys of them at once, so that 128 keys are one tile each.
inline constexpr int kDecodeLongHeadWarps = 8;
inline constexpr int kDecodeMaxWorkers = 32;
inline constexpr int kDecodeMaxSplits = 8;  ///< blocks of a cluster, its portable size
inline constexpr int kDecodeGranule =
    16;  ///< keys; a worker's share is a multiple of this (but for the last)

struct KeyRange {
  int begin = 0;
  int end = 0;  ///< exclusive
};

/// Keys of worker `worker` out of 2^log2_workers (the warps that share a row and head, in order): contiguous shares of one
/// size, the last ones shorter or empty. Depends on the current length only, so that any length is balanced over a fixed
/// grid.
TANDEM_HD constexpr KeyRange decode_range(int length, int log2_workers, int worker) {
  const int even = (length + (1 << log2_workers) - 1) >> log2_workers;
  const int share = round_up(even, kDecodeGranule);
  const int begin = worker * share < length ? worker * share : length;
  const int end = begin + share < length ? begin + share : length;
  return {begin, end};
}

/// Below this many warps a multiprocessor wants more, each having 8 KB of keys and values under way.
inline constexpr int kDecodeBusyWarps = 7;

/// Warps a (row, head) pair is shared by: enough to give every multiprocessor about `busy_warps`, but none less than a granule
/// at full length, and twice that where blocks must meet in a cluster. A warp costs some 500 instructions however few keys it
/// has, so no more than that.
TANDEM_HD constexpr int decode_workers(int64_t pairs, int capacity, int multiprocessors,
                                       int busy_warps = kDecodeBusyWarps, int block_warps = kDecodeWarps) {
  int workers = 1;
  while (workers < kDecodeMaxWorkers &&
         pairs * workers < busy_warps * static_cast<int64_t>(multiprocessors) &&
         capacity >= (workers < block_warps ? 2 : 4) * workers * kDecodeGranule) {
    workers *= 2;
  }
  return workers;
}

/// How the workers of pairs lie over blocks: up to warps() of them in a block, several heads a block when they are
/// fewer, a cluster of blocks when they are more.
struct DecodeGrid {
  int log2_workers = 0;
  int log2_warps = kDecodeLog2Warps;
  TANDEM_HD constexpr int warps() const { return 1 << log2_warps; }  ///< of a block
  TANDEM_HD constexpr int log2_block_workers() const {
    return log2_workers < log2_warps ? log2_workers : log2_warps;
  }
  TANDEM_HD constexpr int log2_splits() const { return log2_workers - log2_block_workers(); }
  TANDEM_HD constexpr int block_heads() const { return warps() >> log2_block_workers(); }
  TANDEM_HD constexpr int blocks_x(int heads) const {
    return ceil_div(heads, block_heads()) << log2_splits();
  }
  /// Block of the cluster.
  TANDEM_HD constexpr int split(int block_x) const { return block_x & ((1 << log2_splits()) - 1); }
  /// Head of a warp; may be at or beyond `heads` in the last block.
  TANDEM_HD constexpr int head(int block_x, int warp) const {
    return (block_x >> log2_splits()) * block_heads() + (warp >> log2_block_workers());
  }
  TANDEM_HD constexpr int worker(int block_x, int warp) const {
    return (split(block_x) << log2_block_workers()) + (warp & ((1 << log2_block_workers()) - 1));
  }
};

/// How pairs lie over multiprocessors where each has one warp: one block a multiprocessor (the registers of seven warps and more leave no
/// room for a second), every block as many pairs as any other, or one less. A warp has one pair a round.
struct DecodeSpread {
  int pairs = 0;
  int blocks = 0;
  int warps = 0;  ///< of a block
  /// At or beyond `pairs` in the last rounds: none. The pairs of a block are of many sources, so that long ones and finished ones
  /// are spread, too.
  TANDEM_HD constexpr int pair(int block, int warp, int round) const {
    return (round * warps + warp) * blocks + block;
  }
};

/// `most_warps`: that a multiprocessor has registers for.
TANDEM_HD constexpr DecodeSpread decode_spread(int pairs, int multiprocessors, int most_warps) {
  const int of_a_block = ceil_div(pairs, multiprocessors);
  const int rounds = ceil_div(of_a_block, most_warps);
  return {.pairs = pairs, .blocks = ceil_div(pairs, of_a_block), .warps = ceil_div(of_a_block, rounds)};
}

// Fragments of mma.m16n8k16 as the decode kernel fills them straight from global memory. lane = 4 * g + t. The inner
// index of a product may be permuted freely as long as both operands agree, and so may the columns of the result: the
// permutations below make every load 16 contiguous bytes (8 elements, one chunk).

/// Scores: operand B, key 8 * tile + key_of(lane), chunk step. One chunk feeds two k16 steps: elements 0-3, then 4-7.
/// Operand A (the queries) is row key_of(lane), the same chunk. `pairs`: chunks of steps 2 i and 2 i + 1 are neighbours, so
/// that one load brings both; here and for values.
TANDEM_HD constexpr int score_fragment_key(int lane) {
  return lane >> 2;
}
TANDEM_HD constexpr int score_fragment_chunk(int lane, int step, bool pairs = false) {
  return pairs ? 8 * (step >> 1) + 2 * (lane & 3) + (step & 1) : 4 * step + (lane & 3);
}
/// Result of scores tile: this lane's two columns are keys 8 * tile + score_column(lane) and the next.
TANDEM_HD constexpr int score_column(int lane) {
  return 2 * (lane & 3);
}

/// Weighted sum, transposed: operand A is the values, the four keys (of 16) whose chunk this lane loads: which = 0..3.
/// Operand B is the probabilities, in the very registers in which the scores came out.
TANDEM_HD constexpr int value_fragment_key(int lane, int which) {
  return 2 * (lane & 3) + (which & 1) + 8 * (which >> 1);
}
/// Chunk of those keys for 64-element block `block`; product i of the block takes elements 2 i and 2 i + 1 of every chunk.
TANDEM_HD constexpr int value_fragment_chunk(int lane, int block, bool pairs = false) {
  return pairs ? 2 * (lane >> 2) + block : 8 * block + (lane >> 2);
}
/// Result of product i: accumulators 0, 1 are this element for query rows score_column(lane) and the next; 2, 3 are the
/// element after it.
TANDEM_HD constexpr int value_result_element(int lane, int block, int i, bool pairs = false) {
  return 8 * value_fragment_chunk(lane, block, pairs) + 2 * i;
}

}  // namespace tandem::kernels
