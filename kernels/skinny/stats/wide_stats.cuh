// A norm by statistics in a wide kernel (stats_map.h): what the finish needs of a row, and what it writes of it.
#pragma once

#include "kernels/common/memory_ptx.cuh"
#include "kernels/skinny/stats/stats_map.h"
#include "kernels/skinny/wide/wide_args.h"

namespace tandem::kernels {

/// All consumers: mean and 1 / sqrt(variance + eps) of the block's rows to shared address `to`, a pair a row; (0, 1) without
/// statistics. A thread requests eight pairs before it uses one: x is under way meanwhile, and takes about as long.
__device__ inline void take_row_stats(const WidePlan& p, const TakenStats& stats, uint32_t to, int rank,
                                      int rows, int tid) {
  constexpr int kAtOnce = 8;
  const int shift = row_stats_shift(p);
  const int lanes = 1 << shift;
  const int row = tid >> shift;
  const int part = tid & (lanes - 1);
  float mean = 0.0f;
  float scale = 1.0f;
  if (stats.pairs != nullptr) {
    // Every lane takes part in the exchanges: one without a row reads the last one's.
    const auto* from =
        reinterpret_cast<const float2*>(stats.pairs) + min((rank << p.share_shift) + row, p.m - 1);
    const float first = __ldcg(&from->x);
    RowSums sums;
#pragma unroll 1
    for (int block = part; block - part < stats.blocks; block += kAtOnce * lanes) {
      float2 pair[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        pair[i] = make_float2(0.0f, 0.0f);
        if (block + i * lanes < stats.blocks) pair[i] = __ldcg(from + (block + i * lanes) * p.m);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (block + i * lanes < stats.blocks) sums.take(pair[i].x - first, pair[i].y);
      }
    }
#pragma unroll 1
    for (int bit = 1; bit < lanes; bit <<= 1) {
      sums.take({.offset = __shfl_xor_sync(0xffffffffu, sums.offset, bit),
                 .squares = __shfl_xor_sync(0xffffffffu, sums.squares, bit)});
    }
    const RowMoments moments = row_moments(sums, first, stats.inverse);
    mean = moments.mean;
    scale = rsqrtf(moments.variance + stats.eps);
  }
  if (part == 0 && row < rows) {
    store_shared(to + 8 * row, mean);
    store_shared(to + 8 * row + 4, scale);
  }
}

/// Before the product, with the residuals requested: what the finish needs of x's rows and of the residual's.
__device__ inline void take_stats(const WidePlan& p, const StatsArgs& stats, uint32_t to, int rank, int rows,
                                  int tid) {
  take_row_stats(p, stats.x, to, rank, rows, tid);
  if (stats.residual.pairs != nullptr) take_row_stats(p, stats.residual, to + 8 * p.share(), rank, rows, tid);
}

/// What belongs to weight row `row`: w beta joins the bias. `gamma`: WideEnd from kEndScaledGamma on.
template <typename T>
__device__ inline void load_stats_ends(const StatsArgs& stats, int w_rows, int row, float& bias,
                                       float& gamma_sum, float (&gamma)[3]) {
  if (stats.norm_sums != nullptr) {
    gamma_sum = stats.norm_sums[row];
    bias += stats.norm_sums[w_rows + row];
  }
  const void* const from[3] = {stats.scaled_gamma, stats.residual_gamma, stats.residual_beta};
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    if (from[i] != nullptr) gamma[i] = to_float(static_cast<const T*>(from[i])[row]);
  }
}

/// WideEnd from kEndScaledGamma on, of row `local` of the tile; `ends`: shared address of the tile's.
__device__ inline void store_gammas(const WidePlan& p, const float (&gamma)[3], uint32_t ends, int local) {
#pragma unroll
  for (int i = 0; i < 3; ++i)
    store_shared(ends + 4 * ((kEndScaledGamma + i) * p.tile_rows() + local), gamma[i]);
}

/// (v - mean) * scale * gamma + beta; `row`: mean and scale.
__device__ inline float4 normed(const float4& v, const float2& row, const float4& gamma, const float4& beta) {
  return make_float4(
      fmaf((v.x - row.x) * row.y, gamma.x, beta.x), fmaf((v.y - row.x) * row.y, gamma.y, beta.y),
      fmaf((v.z - row.x) * row.y, gamma.z, beta.z), fmaf((v.w - row.x) * row.y, gamma.w, beta.w));
}
/// Of sums of products with rows that gamma alone has scaled; `gamma_sum`: w gamma. The bias brings w beta.
__device__ inline float4 normed_sum(const float4& v, const float2& row, const float4& gamma_sum) {
  return make_float4(fmaf(-row.x, gamma_sum.x, v.x) * row.y, fmaf(-row.x, gamma_sum.y, v.y) * row.y,
                     fmaf(-row.x, gamma_sum.z, v.z) * row.y, fmaf(-row.x, gamma_sum.w, v.w) * row.y);
}

/// Statistics of kRows rows, in every lane of those that have the same columns. All lanes of a warp must call it together: a mask
/// of 16 lanes would send every exchange of a warp with two masks through the compiler's slow way.
template <int kRows>
__device__ inline void exchange_stats(const float4 (&v)[kRows], bool centred, ColumnStats (&stats)[kRows]) {
  constexpr uint32_t lanes = 0xffffffffu;
#pragma unroll
  for (int j = 0; j < kRows; ++j) stats[j] = quad_stats(v[j].x, v[j].y, v[j].z, v[j].w, centred);
#pragma unroll
  for (int count = 4; count < kStatsColumns; count *= 2) {
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      const ColumnStats other{.sum = __shfl_xor_sync(lanes, stats[j].sum, count / 4),
                              .squares = __shfl_xor_sync(lanes, stats[j].squares, count / 4)};
      stats[j] = merged_stats(stats[j], other, count);
    }
  }
}

}  // namespace tandem::kernels
