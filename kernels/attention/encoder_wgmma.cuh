// Pieces of the encoder's sm_90a kernel: where things lie in shared memory, which tile is next, what happens to a tile of
// scores between the two products, and how rows leave.
#pragma once

#include "harness/base/host_device.h"
#include "kernels/attention/encoder_bias.cuh"
#include "kernels/common/device.cuh"
#include "kernels/common/hopper_ptx.cuh"
#include "kernels/common/mma_ptx.cuh"
#include "kernels/common/ring.h"

namespace tandem::kernels::wgmma_attention {

inline constexpr int kConsumers = 2;      // warpgroups
inline constexpr int kGroupQueries = 64;  // queries of a warpgroup
inline constexpr int kQueries = kConsumers * kGroupQueries;
inline constexpr int kKeys = 128;
inline constexpr int kGroupThreads = 128;
inline constexpr int kThreads = (1 + kConsumers) * kGroupThreads;
inline constexpr int kRowBytes = 128;  // a tile row: 64 elements, the width of the copy engine's swizzle
static_assert(kBiasMargin >= kGroupQueries + kKeys - 2);

struct WgmmaArgs {
  void* out;
  const int32_t* offsets;
  const float* distance_bias;
  int64_t out_stride;
  int64_t items;
  int query_tiles;  ///< of the longest sequence
  int heads;
  int max_distance;
  float scale;
  bool causal;
};

/// Shared memory from its first 1024-byte boundary on.
template <int Dim>
struct Layout {
  static constexpr int kHalves = Dim / 64;  // tiles of 64 columns a head
  static constexpr int kStages = Dim == 64 ? 3 : 2;
  static constexpr int kQueryTile = kGroupQueries * kRowBytes;
  static constexpr int kKeyTile = kKeys * kRowBytes;
  static constexpr int kQueryBytes = kConsumers * kHalves * kQueryTile;
  static constexpr int kStageBytes = kHalves * kKeyTile;
  static constexpr int kKeysAt = kQueryBytes;
  static constexpr int kValuesAt = kKeysAt + kStages * kStageBytes;
  static constexpr int kOutAt = kValuesAt + kStages * kStageBytes;
  static constexpr int kBarriersAt = kOutAt + kQueryBytes;
  static constexpr int kBarriers = 2 + 4 * kStages;
  static constexpr int kBiasAt = kBarriersAt + round_up(8 * kBarriers, 128);
  static constexpr int kBytes = kBiasAt;  // and the bias
};

/// Addresses of the barriers. "full": the copy engine has delivered; "empty": every consumer warp is done.
template <int Dim>
struct Barriers {
  uint32_t base;
  static constexpr int kStages = Layout<Dim>::kStages;
  __device__ uint32_t query_full() const { return base; }
  __device__ uint32_t query_empty() const { return base + 8; }
  __device__ uint32_t key_full(int s) const { return base + 16 + 8 * s; }
  __device__ uint32_t key_empty(int s) const { return base + 16 + 8 * (kStages + s); }
  __device__ uint32_t value_full(int s) const { return base + 16 + 8 * (2 * kStages + s); }
  __device__ uint32_t value_empty(int s) const { return base + 16 + 8 * (3 * kStages + s); }
};

/// The two warpgroups issue their products in turns, so that one's products run while the other computes its softmax (as in
/// Shah et al., FlashAttention-3, 2024). Every warpgroup takes a turn for every tile of keys, also where it has no queries: a turn that
/// one skips is waited for by the other. The second one's first turn is the first one's to give, which begin() arms.
struct Turns {
  int group;
  static_assert(kConsumers == 2);
  static constexpr int kFirstBarrier = 1 + kConsumers;  // those before it are the warpgroups' own
  __device__ void begin() const {
    if (group == 1) end();
  }
  __device__ void wait() const { wait_turn(kFirstBarrier + group, kConsumers * kGroupThreads); }
  __device__ void end() const { give_turn(kFirstBarrier + 1 - group, kConsumers * kGroupThreads); }
};

/// One query tile of one head of one sequence; length 0 when the tile lies beyond its sequence.
struct Item {
  int head;
  int first_token;
  int length;
  int q0;
  int tiles;  ///< of keys
};
[[maybe_unused]] __device__ inline Item locate(const WgmmaArgs& a, int64_t index) {
  Item item;
  const int tile = static_cast<int>(index % a.query_tiles);
  const int64_t rest = index / a.query_tiles;
  item.head = static_cast<int>(rest % a.heads);
  const int sequence = static_cast<int>(rest / a.heads);
  item.first_token = a.offsets[sequence];
  item.length = a.offsets[sequence + 1] - item.first_token;
  item.q0 = tile * kQueries;
  if (item.q0 >= item.length) item.length = 0;
  item.tiles = item.length == 0 ? 0 : key_tiles(item.length, item.q0, kQueries, kKeys, a.causal);
  return item;
}

/// What a tile of scores needs to know about where it is.
struct TilePlace {
  const float* bias;  ///< in shared memory, or null
  int max_distance;
  int length;
  int group_q0;  ///< first query of the warpgroup
  int row;       ///< this thread's first query; the second is row + 8
  int k0;
  int column;   ///< this thread's first key of every eight
  float scale;  ///< in units of log 2
  bool causal;
};

/// Bias and mask.
[[maybe_unused]] __device__ inline void finish_scores(float (&s)[kKeys / 8][4], const TilePlace& at) {
  if (at.bias != nullptr) {
    const BiasTile kind = bias_tile(at.group_q0, kGroupQueries, at.k0, kKeys, at.max_distance);
    if (kind == BiasTile::kNear) {
      const float* near =
          at.bias + extended_bias_index(at.k0 + at.column - at.row, at.max_distance, kBiasMargin);
      float before0 =
          near[-8];  // query row + 8 at keys 8 j is at the distance of query row at keys 8 (j - 1)
      float before1 = near[-7];
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
        const float here0 = near[8 * j];
        const float here1 = near[8 * j + 1];
        s[j][0] = fmaf(s[j][0], at.scale, here0);
        s[j][1] = fmaf(s[j][1], at.scale, here1);
        s[j][2] = fmaf(s[j][2], at.scale, before0);
        s[j][3] = fmaf(s[j][3], at.scale, before1);
        before0 = here0;
        before1 = here1;
      }
    } else {
      const float constant =
          at.bias[kind == BiasTile::kBefore ? 0 : extended_bias_size(at.max_distance, kBiasMargin) - 1];
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) s[j][e] = fmaf(s[j][e], at.scale, constant);
      }
    }
  }
  if (tile_needs_mask(at.length, at.group_q0, at.k0, kKeys, at.causal)) {
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int key = at.k0 + 8 * j + at.column + (e & 1);
        if (key >= at.length || (at.causal && key > at.row + 8 * (e >> 1))) s[j][e] = -INFINITY;
      }
    }
  }
}

/// Running softmax of a thread's two queries.
struct Softmax {
  float maximum[2] = {-INFINITY, -INFINITY};
  float total[2] = {0.0f, 0.0f};

  /// Scores to probabilities in place; rescale[i] is what earlier sums of query i must be multiplied by. late_scale: what
  /// finish_scores has not yet applied (scale without a bias, 1 with one).
  [[maybe_unused]] __device__ void step(float (&s)[kKeys / 8][4], float late_scale, float (&rescale)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = maximum[half];
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) top = fmaxf(top, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      // Key 0 is in the first tile and every query sees it: the maximum is finite from here on.
      const float offset = -top * late_scale;
      rescale[half] = fast_exp2(fmaf(maximum[half], late_scale, offset));
      maximum[half] = top;
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
        s[j][2 * half] = fast_exp2(fmaf(s[j][2 * half], late_scale, offset));
        s[j][2 * half + 1] = fast_exp2(fmaf(s[j][2 * half + 1], late_scale, offset));
        sum += s[j][2 * half] + s[j][2 * half + 1];
      }
      total[half] = fmaf(total[half], rescale[half], sum);
    }
  }
};

/// Accumulators of the scores as operand of the product with the values.
template <typename T>
__device__ inline void to_operand(uint32_t (&p)[kKeys / 16][4], const float (&s)[kKeys / 8][4]) {
#pragma unroll
  for (int j = 0; j < kKeys / 16; ++j) {
    p[j][0] = pack2<T>(s[2 * j][0], s[2 * j][1]);
    p[j][1] = pack2<T>(s[2 * j][2], s[2 * j][3]);
    p[j][2] = pack2<T>(s[2 * j + 1][0], s[2 * j + 1][1]);
    p[j][3] = pack2<T>(s[2 * j + 1][2], s[2 * j + 1][3]);
  }
}

/// Rows beyond the sequence belong to the next one: their probability is 0, but 0 times a NaN is not. Both warpgroups
/// write the same zeros, each before its own product.
template <int Dim>
__device__ inline void clear_values(unsigned char* values, int valid, int thread, int barrier_id) {
  for (int h = 0; h < Layout<Dim>::kHalves; ++h) {
    unsigned char* tile = values + h * Layout<Dim>::kKeyTile;
    for (int at = valid * kRowBytes + 16 * thread; at < kKeys * kRowBytes; at += 16 * kGroupThreads) {
      *reinterpret_cast<uint4*>(tile + at) = make_uint4(0, 0, 0, 0);
    }
  }
  fence_async_proxy();
  warpgroup_barrier(barrier_id);
}

/// Stores the rows of a warp through its own 16 rows of the staging tile, 16 bytes at a time.
template <typename T, int Dim>
__device__ inline void store_rows(unsigned char* staging, const float (&o)[Dim / 8][4],
                                  const float (&inverse)[2], T* out, int64_t out_stride, int valid_rows,
                                  int lane) {
  constexpr int kChunks = Dim / 8;
  const auto at = [&](int row, int chunk) {
    return staging + row * (Dim * 2) + 16 * swizzled_chunk(row, chunk, kChunks);
  };
  __syncwarp();  // the previous tile has left
#pragma unroll
  for (int j = 0; j < kChunks; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      *reinterpret_cast<uint32_t*>(at((lane >> 2) + 8 * half, j) + 4 * (lane & 3)) =
          pack2<T>(o[j][2 * half] * inverse[half], o[j][2 * half + 1] * inverse[half]);
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 16 * kChunks / kWarp; ++i) {
    const int row = (lane + i * kWarp) / kChunks;
    const int chunk = (lane + i * kWarp) % kChunks;
    if (row < valid_rows) {
      *reinterpret_cast<uint4*>(out + row * out_stride + 8 * chunk) =
          *reinterpret_cast<const uint4*>(at(row, chunk));
    }
  }
}

}  // namespace tandem::kernels::wgmma_attention
