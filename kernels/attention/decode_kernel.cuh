// What the two decode kernels (tensor cores for 16-bit types, fp32) share: where a block's rows and keys
// are, and the combination of partial results, in a fixed order, over the warps of a block and the blocks of a cluster.
#pragma once

#include <cstdint>

#include "kernels/attention/attention_index.h"
#include "kernels/attention/attention_ptx.cuh"
#include "kernels/attention/decode_kernel.h"
#include "kernels/common/device.cuh"

namespace tandem::kernels {

inline constexpr int kDecodeThreads = kDecodeWarps * kWarp;

/// Shared memory of a block, floats: per warp and row the weighted sum [head_dim], maximum and sum of exponentials; then
/// the same combined over the warps, which the other blocks of the cluster read.
TANDEM_HD constexpr int decode_partial_floats(int rows, int head_dim) { return rows * (head_dim + 2); }
TANDEM_HD constexpr int decode_shared_floats(int rows, int head_dim) {
  return (kDecodeWarps + 1) * decode_partial_floats(rows, head_dim);
}

struct DecodeBlock {
  int split;
  int head;
  int source;
  int first_row;  ///< global row of the block's first query
  int rows;
};

__device__ inline DecodeBlock decode_block(const DecodeArgs& a, int rows_per_block) {
  DecodeBlock b;
  b.split = static_cast<int>(blockIdx.x) % a.splits;
  b.head = static_cast<int>(blockIdx.x) / a.splits;
  b.source = static_cast<int>(blockIdx.y) / a.row_groups;
  const int group = static_cast<int>(blockIdx.y) % a.row_groups;
  b.first_row = b.source * a.rows_per_source + group * rows_per_block;
  b.rows = min(rows_per_block, a.rows_per_source - group * rows_per_block);
  return b;
}

/// Bit r: row r of the block is not finished.
__device__ inline uint32_t live_rows(const DecodeArgs& a, const DecodeBlock& b) {
  uint32_t live = (1u << b.rows) - 1u;
  if (a.finished != nullptr) {
    for (int r = 0; r < b.rows; ++r) {
      if (a.finished[b.first_row + r] != 0) live &= ~(1u << r);
    }
  }
  return live;
}

template <typename T>
__device__ inline void store_pair(T* p, float first, float second) {
  if constexpr (sizeof(T) == 2) {
    *reinterpret_cast<uint32_t*>(p) = pack2<T>(first, second);
  } else {
    *reinterpret_cast<float2*>(p) = make_float2(first, second);
  }
}

/// Zeros for all rows of the block, by the first block of the cluster. Only after pdl_wait().
template <typename T>
__device__ inline void store_zeros(const DecodeArgs& a, const DecodeBlock& b) {
  if (b.split != 0) return;
  const int pairs = a.head_dim / 2;
  for (int i = static_cast<int>(threadIdx.x); i < b.rows * pairs; i += kDecodeThreads) {
    const int row = i / pairs;
    store_pair(static_cast<T*>(a.out) + (b.first_row + row) * a.out_stride + b.head * a.head_dim + 2 * (i % pairs), 0.0f,
               0.0f);
  }
}

/// Pointers into a partial: sums [rows][head_dim], maxima [rows] (base 2), totals [rows].
struct Partial {
  float* sums;
  float* maxima;
  float* totals;
};
__device__ inline Partial decode_partial(float* shared, int index, int rows, int head_dim) {
  float* base = shared + index * decode_partial_floats(rows, head_dim);
  return {base, base + rows * head_dim, base + rows * head_dim + rows};
}

/// Combines the warps' partials (already in shared memory; a warp without keys has maximum -inf, total 0, sums 0), then
/// the cluster's, and stores the rows. Every thread of the block calls it.
template <typename T>
__device__ inline void combine_and_store(const DecodeArgs& a, const DecodeBlock& b, uint32_t live, float* shared) {
  __syncthreads();
  const int pairs = a.head_dim / 2;
  const int tid = static_cast<int>(threadIdx.x);
  const Partial block = decode_partial(shared, kDecodeWarps, b.rows, a.head_dim);
  T* out = static_cast<T*>(a.out) + b.first_row * a.out_stride + b.head * a.head_dim;

  for (int i = tid; i < b.rows * pairs; i += kDecodeThreads) {
    const int row = i / pairs;
    const int element = 2 * (i % pairs);
    float maximum = -INFINITY;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      maximum = fmaxf(maximum, decode_partial(shared, w, b.rows, a.head_dim).maxima[row]);
    }
    float total = 0.0f;
    float first = 0.0f;
    float second = 0.0f;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      const Partial p = decode_partial(shared, w, b.rows, a.head_dim);
      // A block without any key has maximum -inf: keep -inf - -inf out of the exponential.
      const float weight = p.maxima[row] == -INFINITY ? 0.0f : fast_exp2(p.maxima[row] - maximum);
      total += weight * p.totals[row];
      first += weight * p.sums[row * a.head_dim + element];
      second += weight * p.sums[row * a.head_dim + element + 1];
    }
    if (a.splits == 1) {
      const float inverse = (live >> row & 1u) != 0 ? 1.0f / total : 0.0f;
      const bool alive = (live >> row & 1u) != 0;
      store_pair(out + row * a.out_stride + element, alive ? first * inverse : 0.0f, alive ? second * inverse : 0.0f);
    } else {
      block.sums[row * a.head_dim + element] = first;
      block.sums[row * a.head_dim + element + 1] = second;
      if (element == 0) {
        block.maxima[row] = maximum;
        block.totals[row] = total;
      }
    }
  }
#if __CUDA_ARCH__ >= 900
  if (a.splits == 1) return;
  cluster_arrive();
  cluster_wait();
  for (int i = static_cast<int>(cluster_rank()) * kDecodeThreads + tid; i < b.rows * pairs;
       i += a.splits * kDecodeThreads) {
    const int row = i / pairs;
    const int element = 2 * (i % pairs);
    const uint32_t maxima = shared_address(block.maxima + row);
    const uint32_t totals = shared_address(block.totals + row);
    const uint32_t sums = shared_address(block.sums + row * a.head_dim + element);
    float m[kDecodeMaxSplits];
    float l[kDecodeMaxSplits];
    float s0[kDecodeMaxSplits];
    float s1[kDecodeMaxSplits];
    float maximum = -INFINITY;
#pragma unroll
    for (int s = 0; s < kDecodeMaxSplits; ++s) {
      if (s < a.splits) {
        m[s] = load_cluster(maxima, s);
        l[s] = load_cluster(totals, s);
        s0[s] = load_cluster(sums, s);
        s1[s] = load_cluster(sums + 4, s);
        maximum = fmaxf(maximum, m[s]);
      }
    }
    float total = 0.0f;
    float first = 0.0f;
    float second = 0.0f;
#pragma unroll
    for (int s = 0; s < kDecodeMaxSplits; ++s) {
      if (s < a.splits) {
        const float weight = m[s] == -INFINITY ? 0.0f : fast_exp2(m[s] - maximum);
        total += weight * l[s];
        first += weight * s0[s];
        second += weight * s1[s];
      }
    }
    const bool alive = (live >> row & 1u) != 0;
    const float inverse = alive ? 1.0f / total : 0.0f;
    store_pair(out + row * a.out_stride + element, alive ? first * inverse : 0.0f, alive ? second * inverse : 0.0f);
  }
  // The other blocks may still be reading this block's shared memory.
  cluster_arrive();
  cluster_wait();
#endif
}

}  // namespace tandem::kernels
