// Decode attention on tensor cores, for queries of 16 bits: keys and values go from global memory straight into fragments. One
// m16n8k16 product serves up to eight query rows (beams) at the cost of one, so a single query uses the same code: the
// tensor cores here save instructions, not arithmetic. Bytes bind, and next to them the instructions around the loads: a
// full tile has no predicates and, in self-attention, constant offsets.
#pragma once

#include "harness/base/random.h"
#include "kernels/attention/decode/decode_kernel.cuh"
#include "kernels/attention/decode/decode_tile.cuh"

namespace tandem::kernels::decode {

/// Running softmax. The four lanes of query row lane / 4 hold the same maximum and their own part of the total; the sums
/// are transposed (value elements are the product's rows): o[..][half * 2 + i] belongs to query row 2 * (lane % 4) + i.
template <typename S>
struct State {
  float o[S::kBlocks][4][4] = {};
  float maximum = -INFINITY;
  float total = 0.0f;
  /// Of codes: the sums are in units of 2^unit, so that what a value is weighted with, probability times scale, is at most 1.
  int unit = kLeastUnit;
  static constexpr int kLeastUnit = -96;
};

template <typename S>
using Scores = float[S::kTiles][4];  // [..][2], [3] belong to rows 8-15 of the product, which are not used

/// A query as the products take it, and what the scores are multiplied with for it. Halves have fewer exponents than bf16,
/// so their queries are scaled by a power of two to a largest magnitude of 2^14 to 2^15.
template <typename S>
struct Query {
  uint4 chunks[S::kSteps];
  float factor = 1.0f;
};
template <typename S>
__device__ inline void to_product(Query<S>& q, bool halves) {
  if constexpr (S::kCodes) {
    float v[S::kSteps][8];
    uint32_t largest = 0;
    with_type<typename S::T>(halves, [&](auto element) {
#pragma unroll
      for (int j = 0; j < S::kSteps; ++j) unpack<decltype(element)>(q.chunks[j], v[j]);
    });
#pragma unroll
    for (int j = 0; j < S::kSteps; ++j) {
#pragma unroll
      for (int i = 0; i < 8; ++i) largest = max(largest, magnitude_bits(v[j][i]));
    }
    largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
    largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    const int exponent = max(static_cast<int>(largest >> 23) - 127, -110);
    const float up = power_of_two(14 - exponent);
    q.factor = power_of_two(exponent - 14);
#pragma unroll
    for (int j = 0; j < S::kSteps; ++j) {
#pragma unroll
      for (int i = 0; i < 8; ++i) v[j][i] *= up;
      q.chunks[j] = pack<__half>(v[j]);
    }
  }
}

template <typename S>
__device__ inline void score(const Tile<S>& x, const uint4 (&q)[S::kSteps], Scores<S>& s) {
#pragma unroll
  for (int u = 0; u < S::kTiles; ++u) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[u][i] = 0.0f;
#pragma unroll
    for (int j = 0; j < S::kSteps; ++j) {
      const uint4 k = S::Elements::operand(x.k[u][j]);
      mma_16816<typename S::Product>(s[u], q[j].x, 0, q[j].y, 0, k.x, k.y);
      mma_16816<typename S::Product>(s[u], q[j].z, 0, q[j].w, 0, k.z, k.w);
    }
  }
}

/// Scores of codes times their keys' scales, `k_scale` of lane i being key i's.
template <typename S>
__device__ inline void scale_scores(Scores<S>& s, float k_scale, int lane) {
#pragma unroll
  for (int u = 0; u < S::kTiles; ++u) {
#pragma unroll
    for (int i = 0; i < 2; ++i) s[u][i] *= __shfl_sync(0xffffffffu, k_scale, 8 * u + score_column(lane) + i);
  }
}

/// To units of log 2, with the bias by distance (bias null: none), -inf at or beyond `end`.
template <typename S>
__device__ inline void finish_scores(Scores<S>& s, float scale, const float* bias, int max_distance,
                                     int position, int tile, int end, int lane) {
  if (!S::kSelf || bias == nullptr) {
#pragma unroll
    for (int u = 0; u < S::kTiles; ++u) {
      s[u][0] *= scale;
      s[u][1] *= scale;
    }
  } else if (tile + S::kKeys - 1 - position <= -max_distance) {
    const float constant = kLog2E * __ldg(bias);
#pragma unroll
    for (int u = 0; u < S::kTiles; ++u) {
      s[u][0] = fmaf(s[u][0], scale, constant);
      s[u][1] = fmaf(s[u][1], scale, constant);
    }
  } else {
#pragma unroll
    for (int u = 0; u < S::kTiles; ++u) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int distance = tile + 8 * u + score_column(lane) + i - position;
        s[u][i] = fmaf(s[u][i], scale, kLog2E * __ldg(bias + distance_bias_index(distance, max_distance)));
      }
    }
  }
  if (tile + S::kKeys > end) {
#pragma unroll
    for (int u = 0; u < S::kTiles; ++u) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (tile + 8 * u + score_column(lane) + i >= end) s[u][i] = -INFINITY;
      }
    }
  }
}

/// The unit of the sums becomes one that this tile's scales need. Returns what sums in the old one are multiplied with.
template <typename S>
__device__ inline float raise_unit(State<S>& state, float v_scale) {
  const uint32_t largest = __reduce_max_sync(0xffffffffu, __float_as_uint(v_scale));
  // Of a scale that is NaN the unit does not matter.
  const int unit = max(state.unit, min(static_cast<int>(largest >> 23) - 126, 126));
  const int fall = max(state.unit - unit, -126);
  state.unit = unit;
  return power_of_two(fall);
}

/// Scores to what the values are weighted with: probabilities in T's precision, of codes times the values' scales (of lane i
/// key i's) in the sums' unit. Rescales the sums.
template <typename S>
__device__ inline void softmax_step(const Scores<S>& s, State<S>& state, float v_scale,
                                    uint32_t (&p)[S::kTiles], int lane) {
  float maximum = state.maximum;
#pragma unroll
  for (int u = 0; u < S::kTiles; ++u) maximum = fmaxf(maximum, fmaxf(s[u][0], s[u][1]));
  maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 1));
  maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 2));
  // A tile has at least one key below its end, so the maximum is finite from here on.
  float rescale = fast_exp2(state.maximum - maximum);
  state.maximum = maximum;
  state.total *= rescale;
  if constexpr (S::kCodes) {
    rescale *= raise_unit(state, v_scale);
    const float weight = v_scale * power_of_two(-state.unit);
#pragma unroll
    for (int u = 0; u < S::kTiles; ++u) {
      float weighted[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float probability = fast_exp2(s[u][i] - maximum);
        state.total += probability;
        weighted[i] = probability * __shfl_sync(0xffffffffu, weight, 8 * u + score_column(lane) + i);
      }
      p[u] = pack2<typename S::Product>(weighted[0], weighted[1]);
    }
  } else {
#pragma unroll
    for (int u = 0; u < S::kTiles; ++u) {
      p[u] = pack2<typename S::T>(fast_exp2(s[u][0] - maximum), fast_exp2(s[u][1] - maximum));
      // The total counts what the product will count: the rounded probabilities.
      const float2 rounded = unpack2<typename S::T>(p[u]);
      state.total += rounded.x + rounded.y;
    }
  }
  const float rescale0 = __shfl_sync(0xffffffffu, rescale, 4 * score_column(lane));
  const float rescale1 = __shfl_sync(0xffffffffu, rescale, 4 * score_column(lane) + 4);
#pragma unroll
  for (int b = 0; b < S::kBlocks; ++b) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      state.o[b][i][0] *= rescale0;
      state.o[b][i][1] *= rescale1;
      state.o[b][i][2] *= rescale0;
      state.o[b][i][3] *= rescale1;
    }
  }
}

template <typename S>
__device__ inline void weighted_sum(const Tile<S>& x, const uint32_t (&p)[S::kTiles], State<S>& state) {
#pragma unroll
  for (int m = 0; m < S::kGroups; ++m) {
#pragma unroll
    for (int jj = 0; jj < S::kBlocks; ++jj) {
      uint4 v[4];
#pragma unroll
      for (int w = 0; w < 4; ++w) v[w] = S::Elements::operand(x.v[m][w][jj]);
      const uint32_t w0[4] = {v[0].x, v[0].y, v[0].z, v[0].w};
      const uint32_t w1[4] = {v[1].x, v[1].y, v[1].z, v[1].w};
      const uint32_t w2[4] = {v[2].x, v[2].y, v[2].z, v[2].w};
      const uint32_t w3[4] = {v[3].x, v[3].y, v[3].z, v[3].w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        // Elements 2 i and 2 i + 1 of a chunk, each as a pair of neighbouring keys.
        mma_16816<typename S::Product>(state.o[jj][i], __byte_perm(w0[i], w1[i], 0x5410u),
                                       __byte_perm(w0[i], w1[i], 0x7632u), __byte_perm(w2[i], w3[i], 0x5410u),
                                       __byte_perm(w2[i], w3[i], 0x7632u), p[2 * m], p[2 * m + 1]);
      }
    }
  }
}

/// The sums leave the unit that their scales asked for.
template <typename S>
__device__ inline void leave_unit(State<S>& state) {
  const float unit = power_of_two(state.unit);
#pragma unroll
  for (int b = 0; b < S::kBlocks; ++b) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) state.o[b][i][j] *= unit;
    }
  }
}

/// The only worker of its pair: rows go straight from the accumulators, 16 bytes a lane and 64-element block.
template <typename S, typename T>
__device__ inline void store_rows(const DecodeArgs& a, const DecodeTask& t, const Stream& s,
                                  const State<S>& state, float total, int lane) {
  const float inverse = 1.0f / total;
#pragma unroll
  for (int column = 0; column < 2; ++column) {
    const int row = score_column(lane) + column;
    const float factor = __shfl_sync(0xffffffffu, inverse, 4 * row);
    const bool alive = row < t.rows && (t.live >> row & 1u) != 0;
#pragma unroll
    for (int jj = 0; jj < S::kBlocks; ++jj) {
      if (row >= t.rows || !value_chunk_exists<S>(s, lane, jj)) continue;
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        words[i] = alive ? pack2<T>(state.o[jj][i][column] * factor, state.o[jj][i][2 + column] * factor) : 0;
      }
      T* to = output<T>(a, t, row) + S::result_element(lane, jj, 0);
      *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
}

/// One of several workers: its partial result.
template <typename S>
__device__ inline void leave_partial(const DecodeArgs& a, const DecodeTask& t, const State<S>& state,
                                     float total, float* shared, int lane) {
  const Partial mine = decode_partial(shared, t.warp, t.rows, a.head_dim);
  if ((lane >> 2) < t.rows && lane % 4 == 0) {
    *reinterpret_cast<float2*>(mine.stats + 2 * (lane >> 2)) = make_float2(state.maximum, total);
  }
#pragma unroll
  for (int column = 0; column < 2; ++column) {
    const int row = score_column(lane) + column;
    if (row >= t.rows) continue;
#pragma unroll
    for (int jj = 0; jj < S::kBlocks; ++jj) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int element = S::result_element(lane, jj, i);
        if (element >= a.head_dim) continue;
        *reinterpret_cast<float2*>(mine.sums + row * a.head_dim + element) =
            make_float2(state.o[jj][i][column], state.o[jj][i][2 + column]);
      }
    }
  }
}

/// Over the four lanes of a query row.
__device__ inline float row_total(float total) {
  total += __shfl_xor_sync(0xffffffffu, total, 1);
  total += __shfl_xor_sync(0xffffffffu, total, 2);
  return total;
}

}  // namespace tandem::kernels::decode
