// From the accumulators of a warpgroup to y: the partial sums meet in the shared memory of the block that finishes them, in
// the order of the blocks, then bias, activation, gate and residual.
//
// Few warps run this, one on each scheduler, so an instruction costs its latency: addresses are stepped, not computed, and
// a thread keeps its columns, so that their bias is read once.
#pragma once

#include "kernels/common/device.cuh"
#include "kernels/common/hopper_ptx.cuh"
#include "kernels/skinny/finish.cuh"
#include "kernels/skinny/stats/wide_stats.cuh"
#include "kernels/skinny/wide/wide_args.h"
#include "kernels/skinny/wide/wide_format.cuh"

namespace tandem::kernels {

/// Shared addresses of a block.
struct WideShared {
  uint32_t base;      // a multiple of 1024
  uint32_t sums;      // partial sums to be finished here
  uint32_t barriers;  // full [stages], empty [stages], pushed
  int stages;
  __device__ uint32_t full(int stage) const { return barriers + 8 * stage; }
  __device__ uint32_t empty(int stage) const { return barriers + 8 * (stages + stage); }
  __device__ uint32_t pushed() const { return barriers + 16 * stages; }
  /// With a bitmap: x is sorted.
  __device__ uint32_t sorted(int stage) const { return barriers + 8 * (2 * stages + 1 + stage); }
};

/// Barrier 1, of the block's consumers.
__device__ inline void consumers_sync(const WidePlan& p) {
  named_barrier<1>(p.groups * kWideGroupThreads);
}

/// This thread's accumulators to this block's shared memory: to where they are finished, or, with bulk_sums, to where they
/// leave from. Either has room for every row of the batch.
template <int kBatch>
__device__ inline void wide_store_sums(const WidePlan& p, const float (&c)[kBatch / 8][4],
                                       const WideShared& shared, int warp, int lane) {
  const WideOutput first = wide_output(p.gated, warp, lane, 0);
  const WideOutput second = wide_output(p.gated, warp, lane, 1);
  const int b = wide_batch_row(lane, 0, 0);
  uint32_t to;
  uint32_t other;  // of the second half, from the first
  if (p.bulk_sums) {
    to = shared.base + 4 * wide_leaving_at(p, first.plane, b, first.column);
    other = 4 * (wide_leaving_at(p, second.plane, b, second.column) -
                 wide_leaving_at(p, first.plane, b, first.column));
  } else {
    to = shared.sums + 4 * wide_sum_at(p, 0, first.plane, b, first.column);
    other = 4 * (wide_sum_at(p, 0, second.plane, b, second.column) -
                 wide_sum_at(p, 0, first.plane, b, first.column));
  }
  const uint32_t row = 4 * p.ld;
#pragma unroll
  for (int j = 0; j < kBatch / 8; ++j, to += 8 * row) {
    store_shared(to, c[j][0]);
    store_shared(to + row, c[j][1]);
    store_shared(to + other, c[j][2]);
    store_shared(to + other + row, c[j][3]);
  }
}

/// The same one by one into the shared memory of the blocks that finish them: less delay than wide_send_sums for few rows.
template <int kBatch>
__device__ inline void wide_push_sums(const WidePlan& p, const float (&c)[kBatch / 8][4],
                                      const WideShared& shared, int rank, int warp, int lane) {
  const WideOutput first = wide_output(p.gated, warp, lane, 0);
  const WideOutput second = wide_output(p.gated, warp, lane, 1);
  const uint32_t other = 4 * ((second.plane - first.plane) * p.plane_floats() + second.column - first.column);
#pragma unroll
  for (int j = 0; j < kBatch / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int b = wide_batch_row(lane, j, i);
      if (b >= p.m) continue;
      const int owner = b >> p.share_shift;
      const uint32_t to =
          cluster_address(shared.sums + 4 * wide_sum_at(p, rank, first.plane, b, first.column), owner);
      const uint32_t barrier = cluster_address(shared.pushed(), owner);
      store_cluster(to, c[j][i], barrier);
      store_cluster(to + other, c[j][2 + i], barrier);
    }
  }
}

/// With bulk_sums, once every consumer has fenced and met: each owner's part leaves as a block. Threads 0 .. cluster - 1.
__device__ inline void wide_send_sums(const WidePlan& p, const WideShared& shared, int rank, int owner) {
  if (owner >= p.cluster()) return;
  const int bytes = 4 * wide_owned_rows(p, owner) * p.ld;
  if (bytes == 0) return;
  const uint32_t barrier = cluster_address(shared.pushed(), owner);
  for (int plane = 0; plane < p.planes(); ++plane) {
    copy_to_block(cluster_address(shared.sums + 4 * wide_sum_at(p, rank, plane, 0, 0), owner),
                  shared.base + 4 * wide_leaving_at(p, plane, owner << p.share_shift, 0), bytes, barrier);
  }
}

/// Up to four values one by one: the last columns, and operands that are not aligned. Loops, because it is rare and would
/// be long.
template <typename T>
__device__ inline float4 load_quad_edge(const void* p, int64_t at, bool is_float, int valid) {
  float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
  for (int i = 0; i < valid; ++i) {
    const float value = is_float ? load_fresh_element(static_cast<const float*>(p) + at + i)
                                 : load_fresh_element(static_cast<const T*>(p) + at + i);
    v.x = i == 0 ? value : v.x;
    v.y = i == 1 ? value : v.y;
    v.z = i == 2 ? value : v.z;
    v.w = i == 3 ? value : v.w;
  }
  return v;
}
template <typename T>
__device__ inline void store_quad_edge(void* p, int64_t at, bool is_float, int valid, float4 v) {
#pragma unroll 1
  for (int i = 0; i < valid; ++i) {
    if (is_float) {
      static_cast<float*>(p)[at + i] = v.x;
    } else {
      static_cast<T*>(p)[at + i] = from_float<T>(v.x);
    }
    v = make_float4(v.y, v.z, v.w, 0.0f);
  }
}

/// Four values of T or float at element `at`, of which `valid` exist. The previous kernel may have written them: from L2.
template <typename T>
__device__ inline float4 load_quad_fresh(const void* p, int64_t at, bool is_float, bool vector, int valid) {
  if (!vector) return load_quad_edge<T>(p, at, is_float, valid);
  if (is_float) return __ldcg(reinterpret_cast<const float4*>(static_cast<const float*>(p) + at));
  const uint2 raw = __ldcg(reinterpret_cast<const uint2*>(static_cast<const T*>(p) + at));
  const float2 low = unpack_pair<T>(raw.x);
  const float2 high = unpack_pair<T>(raw.y);
  return make_float4(low.x, low.y, high.x, high.y);
}
template <typename T>
__device__ inline void store_quad_any(void* p, int64_t at, bool is_float, bool vector, int valid,
                                      const float4& v) {
  if (!vector) {
    store_quad_edge<T>(p, at, is_float, valid, v);
  } else if (is_float) {
    *reinterpret_cast<float4*>(static_cast<float*>(p) + at) = v;
  } else {
    *reinterpret_cast<uint2*>(static_cast<T*>(p) + at) =
        make_uint2(pack_pair<T>(v.x, v.y), pack_pair<T>(v.z, v.w));
  }
}

__device__ inline float4 add(const float4& a, const float4& b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
__device__ inline float4 multiply(const float4& a, const float4& b) {
  return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}
__device__ inline float4 multiply(const float4& a, float b) {
  return make_float4(a.x * b, a.y * b, a.z * b, a.w * b);
}
__device__ inline float relu(float v) {
  return v < 0.0f ? 0.0f : v;  // a NaN stays
}

/// Rows that a thread finishes together; the residuals of its first ones are requested before the product.
inline constexpr int kWideRows = 2;

/// Zero where there is no such row or no residual.
template <typename T>
__device__ inline void load_residuals(const WideArgs& a, const WideColumns& at, int rank, int rows, int row,
                                      float4 (&residual)[kWideRows]) {
  const bool vector = a.vector && at.valid == 4;
#pragma unroll
  for (int j = 0; j < kWideRows; ++j) {
    const int b = row + j * at.step;
    residual[j] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (a.residual == nullptr || b >= rows || at.valid <= 0) continue;
    const int64_t element = ((rank << a.plan.share_shift) + b) * a.ld_residual + at.column;
    residual[j] = load_quad_fresh<T>(a.residual, element, a.residual_float, vector, at.valid);
  }
}

/// The scales of the same rows of x, when it is codes.
__device__ inline void load_x_scales(const WideArgs& a, const WideColumns& at, int rank, int rows, int row,
                                     float (&scale)[kWideRows]) {
#pragma unroll
  for (int j = 0; j < kWideRows; ++j) {
    const int b = row + j * at.step;
    scale[j] = b < rows ? __ldcg(a.x_scales + (rank << a.plan.share_shift) + b) : 0.0f;
  }
}

/// The blocks' parts of kWideRows sums, in the order of the blocks. `from`, `second` and `part` in bytes: the shared address
/// of the first row's, how far after it the next row's lies, and each next block's. kAtOnce: parts in flight, which take registers.
template <int kBlocks, int kAtOnce>
__device__ inline void sum_parts(uint32_t from, uint32_t second, uint32_t part, float4 (&sum)[kWideRows]) {
#pragma unroll(kAtOnce)
  for (int source = 0; source < kBlocks; ++source, from += part) {
    const float4 first = load_shared_quad(from);
    const float4 next = load_shared_quad(from + second);
    sum[0] = source == 0 ? first : add(sum[0], first);
    sum[1] = source == 0 ? next : add(sum[1], next);
  }
}
template <class Format>
__device__ inline void sum_parts(const WidePlan& p, uint32_t from, uint32_t second,
                                 float4 (&sum)[kWideRows]) {
  constexpr int kAtOnce = Format::kCodes || Format::kBitmap ? 4 : kWideMaxCluster;
  const uint32_t part = 4 * p.source_floats();
  switch (p.cluster_shift) {
    case 0:
      return sum_parts<1, 1>(from, second, part, sum);
    case 1:
      return sum_parts<2, 2>(from, second, part, sum);
    case 2:
      return sum_parts<4, 4>(from, second, part, sum);
    case 3:
      return sum_parts<8, std::min(8, kAtOnce)>(from, second, part, sum);
    default:
      return sum_parts<kWideMaxCluster, kAtOnce>(from, second, part, sum);
  }
}

/// Sums of codes as numbers, or of rows that are to be normed by statistics as those of normed ones (`x_rows`: mean and
/// 1 / deviation). `row_ends`: shared address of the scales, or gamma sums, of the thread's weight rows.
template <class Format>
__device__ inline void to_numbers(float4 (&value)[kWideRows], uint32_t row_ends,
                                  const float (&x_scale)[kWideRows], const float2 (&x_rows)[kWideRows]) {
  if constexpr (Format::kRowScales) {
    const float4 scale = load_shared_quad(row_ends);
#pragma unroll
    for (int j = 0; j < kWideRows; ++j) {
      value[j] = multiply(value[j], scale);
      if constexpr (Format::kXScales) value[j] = multiply(value[j], x_scale[j]);
    }
  }
  if constexpr (Format::kStats) {
    const float4 gamma_sum = load_shared_quad(row_ends);
#pragma unroll
    for (int j = 0; j < kWideRows; ++j) value[j] = normed_sum(value[j], x_rows[j], gamma_sum);
  }
}

/// Residuals that are a norm by statistics: what they are the residual of. `rows`, `second`: shared address of the first row's mean
/// and 1 / deviation, and how far after it the second's lie. `ends`: of the thread's columns.
__device__ inline void norm_residuals(const WidePlan& p, uint32_t rows, uint32_t second, uint32_t ends,
                                      float4 (&residual)[kWideRows]) {
  const float2 first_row = load_shared_pair(rows);
  const float2 second_row = load_shared_pair(rows + second);
  const float4 gamma = load_shared_quad(ends + 4 * kEndResidualGamma * p.tile_rows());
  const float4 beta = load_shared_quad(ends + 4 * kEndResidualBeta * p.tile_rows());
  residual[0] = normed(residual[0], first_row, gamma, beta);
  residual[1] = normed(residual[1], second_row, gamma, beta);
}

/// What a product with statistics writes besides y: of row b of y if that is `here`, and of the one a step later if `two` are.
/// All lanes of a warp.
template <typename T>
__device__ inline void write_scaled(const WideArgs& a, const WideColumns& at, int b, bool here, bool two,
                                    uint32_t ends, const float4 (&value)[kWideRows]) {
  const StatsArgs& s = a.stats;
  const float4 gamma = load_shared_quad(ends + 4 * kEndScaledGamma * a.plan.tile_rows());
  const int64_t to = static_cast<int64_t>(b) * a.plan.n + at.column;
  two = two && here;
  if (here) store_quad_any<T>(s.scaled_out, to, false, true, 4, multiply(value[0], gamma));
  if (two)
    store_quad_any<T>(s.scaled_out, to + at.step * a.plan.n, false, true, 4, multiply(value[1], gamma));
  ColumnStats stats[kWideRows];
  exchange_stats(value, s.centred, stats);
  if (at.column % kStatsColumns != 0) return;
  auto* const pairs = reinterpret_cast<float2*>(s.stats_out) + stats_at(at.column, b, a.plan.m);
  constexpr float kInverse = 1.0f / kStatsColumns;
  if (here) pairs[0] = make_float2(stats[0].sum * kInverse, stats[0].squares);
  if (two) pairs[at.step] = make_float2(stats[1].sum * kInverse, stats[1].squares);
}

/// Sums the blocks' parts and writes the outputs. `residual`: of the thread's first rows.
///
/// A chain of small products waits for this code in every link, and its first pass runs from a cold instruction cache:
/// what one row executes is kept short, what is rare is not inlined.
template <class Format>
__device__ inline void wide_finish(const WideArgs& a, const WideColumns& at, int rank, int rows,
                                   uint32_t sums, uint32_t bias, float4 (&residual)[kWideRows],
                                   float (&x_scale)[kWideRows]) {
  using T = typename Format::T;
  const WidePlan& p = a.plan;
  // With statistics all lanes of a warp make the same passes, because they exchange them: one without output writes nothing.
  if (!Format::kStats && at.valid <= 0) return;
  const bool whole = a.vector && at.valid == 4;
  const float4 my_bias = load_shared_quad(bias + 4 * at.local);
  const uint32_t row_stats = bias + p.stats_offset - p.bias_offset;
#pragma unroll 1
  for (int row = at.row; row - (Format::kStats ? at.lead : 0) < rows; row += kWideRows * at.step) {
    const int here = Format::kStats ? min(row, rows - 1) : row;
    const int valid = Format::kStats && row >= rows ? 0 : at.valid;
    const bool vector = Format::kStats ? whole && valid == 4 : whole;
    if (row != at.row) {
      load_residuals<T>(a, at, rank, rows, row, residual);
      if constexpr (Format::kXScales) load_x_scales(a, at, rank, rows, row, x_scale);
    }
    const bool two = row + at.step < rows;
    const uint32_t from = sums + 4 * wide_sum_at(p, 0, 0, here, at.local);
    const uint32_t second = two ? 4 * at.step * p.ld : 0;
    float2 x_rows[kWideRows];
    if constexpr (Format::kStats) {
      x_rows[0] = load_shared_pair(row_stats + 8 * here);
      x_rows[1] = load_shared_pair(row_stats + 8 * (two ? here + at.step : here));
    }
    float4 value[kWideRows];
    sum_parts<Format>(p, from, second, value);
    to_numbers<Format>(value, bias + 4 * (p.tile_rows() + at.local), x_scale, x_rows);
#pragma unroll
    for (int j = 0; j < kWideRows; ++j) value[j] = add(value[j], my_bias);
    if (a.activation == static_cast<int>(Activation::kRelu)) {
#pragma unroll
      for (int j = 0; j < kWideRows; ++j)
        value[j] = make_float4(relu(value[j].x), relu(value[j].y), relu(value[j].z), relu(value[j].w));
    } else if (a.activation >= 0) {
#pragma unroll 1
      for (int j = 0; j < kWideRows;
           ++j) {  // a loop: every activation eight times would be most of the kernel
        const float4 v = value[0];
        value[0] = value[1];
        value[1] = make_float4(activate(a.activation, v.x), activate(a.activation, v.y),
                               activate(a.activation, v.z), activate(a.activation, v.w));
      }
    }
    if (p.gated) {
      const float4 up_bias = load_shared_quad(bias + 4 * (p.tile_outputs() + at.local));
      float4 up[kWideRows];
      sum_parts<Format>(p, from + 4 * p.plane_floats(), second, up);
      to_numbers<Format>(up, bias + 4 * (p.tile_rows() + p.tile_outputs() + at.local), x_scale, x_rows);
#pragma unroll
      for (int j = 0; j < kWideRows; ++j) {
        up[j] = add(up[j], up_bias);
        value[j] = make_float4(value[j].x * up[j].x, value[j].y * up[j].y, value[j].z * up[j].z,
                               value[j].w * up[j].w);
      }
    }
    const int b = (rank << p.share_shift) + row;
    const int64_t to = b * a.ldy + at.column;
    if constexpr (Format::kStats) {
      if (a.stats.residual.pairs != nullptr)
        norm_residuals(p, row_stats + 8 * (p.share() + here), two ? 8 * at.step : 0, bias + 4 * at.local,
                       residual);
#pragma unroll
      for (int j = 0; j < kWideRows; ++j) value[j] = add(value[j], residual[j]);
      store_quad_any<T>(a.y, to, a.y_float, vector, valid, value[0]);
      if (two) store_quad_any<T>(a.y, to + at.step * a.ldy, a.y_float, vector, valid, value[1]);
      if (a.stats.stats_out != nullptr)
        write_scaled<T>(a, at, b, valid == 4, two, bias + 4 * at.local, value);
    } else {
      store_quad_any<T>(a.y, to, a.y_float, vector, valid, add(value[0], residual[0]));
      if (two)
        store_quad_any<T>(a.y, to + at.step * a.ldy, a.y_float, vector, valid, add(value[1], residual[1]));
    }
  }
}

}  // namespace tandem::kernels
