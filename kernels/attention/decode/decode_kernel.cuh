// What the two decode kernels (tensor cores for 16-bit types, fp32) share: where a warp's rows and keys are, and the
// combination of partial results, in a fixed order, over the warps of a block and the blocks of a cluster.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/attention/attention_index.h"
#include "kernels/attention/decode/decode_kernel.h"
#include "kernels/common/barrier_ptx.cuh"
#include "kernels/common/codes.h"
#include "kernels/common/device.cuh"
#include "kernels/common/mma_ptx.cuh"

namespace tandem::kernels {

inline constexpr int kDecodeThreads = kDecodeWarps * kWarp;

/// A partial result, floats: weighted sums [rows, head_dim], then [rows, 2]: maximum (in units of log 2) and sum of
/// exponentials.
TANDEM_HD constexpr int decode_partial_floats(int rows, int head_dim) {
  return rows * (head_dim + 2);
}
/// Shared memory of a block, floats: nothing for one worker a pair; else a barrier, a partial of each warp, and in the
/// first block of a cluster those that the others send.
inline constexpr int kDecodeBarrierFloats = 4;
TANDEM_HD constexpr int decode_shared_floats(int rows, int head_dim, const DecodeGrid& grid) {
  if (grid.log2_workers == 0) return 0;
  return kDecodeBarrierFloats +
         (grid.warps() + (1 << grid.log2_splits()) - 1) * decode_partial_floats(rows, head_dim);
}

/// What one warp works on.
struct DecodeTask {
  int warp;
  int head;  ///< at or beyond the number of heads: nothing
  int source;
  int first_row;  ///< global row of the first query
  int rows;       ///< queries that share the source's keys
  int split;      ///< block of the cluster
  int worker;     ///< among those of the pair
  uint32_t live;  ///< bit r: row r is not finished
};

/// The rows of source and pass `y`. Self: a row is its own source.
template <bool Self>
__device__ inline void place_rows(DecodeTask& t, const DecodeArgs& a, int y, int rows_per_block) {
  t.source = y;
  t.first_row = t.source;
  t.rows = 1;
  if (!Self && a.rows_per_source > 1) {
    int group = 0;
    if (a.row_groups > 1) {
      group = t.source % a.row_groups;
      t.source /= a.row_groups;
    }
    t.first_row = t.source * a.rows_per_source + group * rows_per_block;
    t.rows = min(rows_per_block, a.rows_per_source - group * rows_per_block);
  }
  t.live = (1u << t.rows) - 1u;
  if (a.finished != nullptr) {
    for (int r = 0; r < t.rows; ++r) {
      if (a.finished[t.first_row + r] != 0) t.live &= ~(1u << r);
    }
  }
}

template <bool Self>
__device__ inline DecodeTask decode_task(const DecodeArgs& a, int rows_per_block) {
  DecodeTask t;
  const int x = static_cast<int>(blockIdx.x);
  t.warp = static_cast<int>(threadIdx.x) / kWarp;
  t.head = a.grid.head(x, t.warp);
  t.split = a.grid.split(x);
  t.worker = a.grid.worker(x, t.warp);
  place_rows<Self>(t, a, static_cast<int>(blockIdx.y), rows_per_block);
  return t;
}

/// Where the row's part of the output begins.
template <typename T>
__device__ inline T* output(const DecodeArgs& a, const DecodeTask& t, int row) {
  return static_cast<T*>(a.out) + (t.first_row + row) * a.out_stride + t.head * a.head_dim;
}

/// Numbers (row, pair of elements) as row * 2^shift + pair, so that neither needs a division; some pairs do not exist.
struct PairMap {
  int shift;
  int pairs;
  int rows;
  __device__ int end() const { return rows << shift; }
  __device__ int row(int i) const { return i >> shift; }
  __device__ int pair(int i) const { return i & ((1 << shift) - 1); }
};
__device__ inline PairMap pair_map(int head_dim, int rows) {
  return {.shift = kWarp - __clz(head_dim / 2 - 1), .pairs = head_dim / 2, .rows = rows};
}

/// A half or a bf16, as DecodeArgs::halves says. Codes are multiplied as halves whatever queries and outputs are, so their kernels
/// are compiled once for both.
struct Either16 {
  uint16_t bits;
};
/// Calls f with an element of the type that T is.
template <typename T, class F>
__device__ inline void with_type(bool halves, F&& f) {
  if constexpr (!std::is_same_v<T, Either16>) {
    f(T{});
  } else if (halves) {
    f(__half{});
  } else {
    f(__nv_bfloat16{});
  }
}

template <typename T>
__device__ inline void store_pair(T* p, bool halves, float first, float second) {
  if constexpr (sizeof(T) == 2) {
    with_type<T>(halves, [&](auto element) {
      *reinterpret_cast<uint32_t*>(p) = pack2<decltype(element)>(first, second);
    });
  } else {
    *reinterpret_cast<float2*>(p) = make_float2(first, second);
  }
}

/// Zeros for all rows of the warp's head, by the pair's first worker. Only after pdl_wait().
template <typename T>
__device__ inline void store_zeros(const DecodeArgs& a, const DecodeTask& t) {
  if (t.worker != 0 || t.head >= a.heads) return;
  for (int row = 0; row < t.rows; ++row) {
    for (int i = 2 * (static_cast<int>(threadIdx.x) % kWarp); i < a.head_dim; i += 2 * kWarp) {
      store_pair(output<T>(a, t, row) + i, a.halves, 0.0f, 0.0f);
    }
  }
}

struct Partial {
  float* sums;   ///< [rows, head_dim]
  float* stats;  ///< [rows, 2]
};
/// Partial 0 .. grid.warps() - 1: of the warps; after them: of split 1, 2, ...
__device__ inline Partial decode_partial(float* shared, int index, int rows, int head_dim) {
  float* base = shared + kDecodeBarrierFloats + index * decode_partial_floats(rows, head_dim);
  return {base, base + rows * head_dim};
}

/// Before the keys are read, by every thread of a block that will call combine_and_store: the first block of the cluster
/// makes ready to receive. The matching wait is in combine_and_store.
__device__ inline void announce_block(const DecodeArgs& a, const DecodeTask& t, float* shared) {
#if __CUDA_ARCH__ >= 900
  if (a.grid.log2_splits() == 0) return;
  if (t.split == 0 && threadIdx.x == 0) {
    const int senders = (1 << a.grid.log2_splits()) - 1;
    barrier_init(shared_address(shared), 1);
    barrier_arrive_expect(shared_address(shared), senders * static_cast<int>(sizeof(float)) *
                                                      decode_partial_floats(t.rows, a.head_dim));
    fence_barrier_init();
  }
  cluster_arrive_relaxed();
#endif
}

/// One pair of elements of one row, not yet divided by the total.
struct Combined {
  float maximum;
  float total;
  float first;
  float second;
};

/// Over partials begin .. begin + count - 1 (count at most Count), added to `start` in order.
template <int Count>
__device__ inline Combined combine(const Combined& start, float* shared, int begin, int count, int rows,
                                   int head_dim, int row, int element) {
  float2 stats[Count];
  float2 sums[Count];
  float maximum = start.maximum;
#pragma unroll
  for (int i = 0; i < Count; ++i) {
    if (i >= count) continue;
    const Partial p = decode_partial(shared, begin + i, rows, head_dim);
    stats[i] = *reinterpret_cast<const float2*>(p.stats + 2 * row);
    sums[i] = *reinterpret_cast<const float2*>(p.sums + row * head_dim + element);
    maximum = fmaxf(maximum, stats[i].x);
  }
  // A part without any key has maximum -inf: keep -inf - -inf out of the exponential.
  const auto weight = [maximum](float m) { return m == -INFINITY ? 0.0f : fast_exp2(m - maximum); };
  const float w = weight(start.maximum);
  Combined c{maximum, w * start.total, w * start.first, w * start.second};
#pragma unroll
  for (int i = 0; i < Count; ++i) {
    if (i >= count) continue;
    const float wi = weight(stats[i].x);
    c.total += wi * stats[i].y;
    c.first += wi * sums[i].x;
    c.second += wi * sums[i].y;
  }
  return c;
}

/// More than one worker a pair. Combines the warps' partials (already in shared memory; a warp without keys has maximum
/// -inf, total 0, sums 0), then those of the cluster in its first block, and stores the rows. Every thread of the block
/// calls it. Warps: of a block, at most.
template <typename T, int Warps = kDecodeWarps>
__device__ inline void combine_and_store(const DecodeArgs& a, const DecodeTask& t, float* shared) {
  __syncthreads();
#if __CUDA_ARCH__ >= 900
  const int splits = 1 << a.grid.log2_splits();
  if (splits > 1) cluster_wait();  // the first block has begun and its barrier counts
#endif
  if (t.head >= a.heads) return;
  const int group_warps = 1 << a.grid.log2_block_workers();
  const int first_warp = t.warp & ~(group_warps - 1);
  const int thread = static_cast<int>(threadIdx.x) - first_warp * kWarp;
  const PairMap map = pair_map(a.head_dim, t.rows);
  for (int i = thread; i < map.end(); i += group_warps * kWarp) {
    if (map.pair(i) >= map.pairs) continue;
    const int row = map.row(i);
    const int element = 2 * map.pair(i);
    Combined c = combine<Warps>({-INFINITY, 0.0f, 0.0f, 0.0f}, shared, first_warp, group_warps, t.rows,
                                a.head_dim, row, element);
#if __CUDA_ARCH__ >= 900
    if (t.split != 0) {
      const Partial slot = decode_partial(shared, a.grid.warps() + t.split - 1, t.rows, a.head_dim);
      const uint32_t barrier = cluster_address(shared_address(shared), 0);
      store_cluster(cluster_address(shared_address(slot.sums + row * a.head_dim + element), 0), c.first,
                    c.second, barrier);
      if (element == 0) {
        store_cluster(cluster_address(shared_address(slot.stats + 2 * row), 0), c.maximum, c.total, barrier);
      }
      continue;
    }
    if (splits > 1) {
      barrier_wait(shared_address(shared), 0);
      c = combine<kDecodeMaxSplits - 1>(c, shared, a.grid.warps(), splits - 1, t.rows, a.head_dim, row,
                                        element);
    }
#endif
    const bool alive = (t.live >> row & 1u) != 0;
    const float inverse = 1.0f / c.total;
    store_pair(output<T>(a, t, row) + element, a.halves, alive ? c.first * inverse : 0.0f,
               alive ? c.second * inverse : 0.0f);
  }
}

}  // namespace tandem::kernels
