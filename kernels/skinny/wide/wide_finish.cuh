// From the accumulators of a warpgroup to y: the partial sums meet in the shared memory of the block that finishes them, in
// the order of the blocks, then bias, activation, gate and residual.
//
// Few warps run this, one on each scheduler, so an instruction costs its latency: addresses are stepped, not computed, and
// a thread keeps its columns, so that their bias is read once.
#pragma once

#include "kernels/common/device.cuh"
#include "kernels/common/hopper_ptx.cuh"
#include "kernels/skinny/finish.cuh"
#include "kernels/skinny/wide/wide_args.h"

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
};

/// Barrier 1, of the block's consumers.
__device__ inline void consumers_sync(const WidePlan& p) {
  asm volatile("bar.sync 1, %0;" ::"r"(p.groups * kWideGroupThreads) : "memory");
}

__device__ inline void store_shared(uint32_t to, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"(value) : "memory");
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

/// The four neighbouring columns that a thread finishes, in every row that is its turn.
struct WideColumns {
  int local;   // first one in the tile
  int column;  // first one of y
  int valid;   // columns inside y: 4, or fewer at its end, or none
  int row;     // first row of x, of those that the block finishes
  int step;    // rows
};
__device__ inline WideColumns wide_columns(const WidePlan& p, int tile, int tid) {
  const int quads = p.tile_outputs() / 4;  // a power of two
  const int shift = __ffs(quads) - 1;
  const int local = 4 * (tid & (quads - 1));
  const int column = tile * p.tile_outputs() + local;
  return {.local = local,
          .column = column,
          .valid = min(4, p.n - column),
          .row = tid >> shift,
          .step = p.groups * kWideGroupThreads >> shift};
}

/// Four values of T or float at element `at`, of which `valid` exist. The previous kernel may have written them: from L2.
template <typename T>
__device__ inline float4 load_quad_fresh(const void* p, int64_t at, bool is_float, bool vector, int valid) {
  if (vector) {
    if (is_float) return __ldcg(reinterpret_cast<const float4*>(static_cast<const float*>(p) + at));
    const uint2 raw = __ldcg(reinterpret_cast<const uint2*>(static_cast<const T*>(p) + at));
    const float2 low = unpack_pair<T>(raw.x);
    const float2 high = unpack_pair<T>(raw.y);
    return make_float4(low.x, low.y, high.x, high.y);
  }
  float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < valid) {
      v[i] = is_float ? load_fresh_element(static_cast<const float*>(p) + at + i)
                      : load_fresh_element(static_cast<const T*>(p) + at + i);
    }
  }
  return make_float4(v[0], v[1], v[2], v[3]);
}
template <typename T>
__device__ inline void store_quad_any(void* p, int64_t at, bool is_float, bool vector, int valid,
                                      const float4& v) {
  if (vector) {
    if (is_float) {
      *reinterpret_cast<float4*>(static_cast<float*>(p) + at) = v;
    } else {
      *reinterpret_cast<uint2*>(static_cast<T*>(p) + at) =
          make_uint2(pack_pair<T>(v.x, v.y), pack_pair<T>(v.z, v.w));
    }
    return;
  }
  const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i >= valid) break;
    if (is_float) {
      static_cast<float*>(p)[at + i] = values[i];
    } else {
      static_cast<T*>(p)[at + i] = from_float<T>(values[i]);
    }
  }
}

__device__ inline float4 add(const float4& a, const float4& b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
__device__ inline float4 activate_quad(int kind, float4 v) {
  return make_float4(activate(kind, v.x), activate(kind, v.y), activate(kind, v.z), activate(kind, v.w));
}

/// Residuals of the first rows of a thread, requested before the product.
inline constexpr int kWideAhead = 2;
/// Rows whose sums are read together.
inline constexpr int kWideRows = 4;

template <typename T>
__device__ inline void load_residuals(const WideArgs& a, const WideColumns& at, int rank, int rows, int row,
                                      int count, float4* residual) {
  const bool vector = a.vector && at.valid == 4;
  for (int j = 0; j < count; ++j) {
    const int b = row + j * at.step;
    residual[j] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (a.residual == nullptr || b >= rows || at.valid <= 0) continue;
    const int64_t element = ((rank << a.plan.share_shift) + b) * a.ld_residual + at.column;
    residual[j] = load_quad_fresh<T>(a.residual, element, a.residual_float, vector, at.valid);
  }
}

/// Sums the blocks' parts in their order and writes the outputs. `ahead`: residuals of the first kWideAhead rows.
template <typename T>
__device__ inline void wide_finish(const WideArgs& a, const WideColumns& at, int rank, int rows,
                                   const float* sums, const float* bias, const float4 (&ahead)[kWideAhead]) {
  const WidePlan& p = a.plan;
  if (at.valid <= 0) return;
  const bool vector = a.vector && at.valid == 4;
  const float4 my_bias = *reinterpret_cast<const float4*>(bias + at.local);
  const float4 up_bias = p.gated ? *reinterpret_cast<const float4*>(bias + p.tile_outputs() + at.local)
                                 : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
  for (int row = at.row; row < rows; row += kWideRows * at.step) {
    float4 value[kWideRows];
    float4 residual[kWideRows];
    if (row == at.row) {
#pragma unroll
      for (int j = 0; j < kWideAhead; ++j) residual[j] = ahead[j];
      load_residuals<T>(a, at, rank, rows, row + kWideAhead * at.step, kWideRows - kWideAhead,
                        residual + kWideAhead);
    } else {
      load_residuals<T>(a, at, rank, rows, row, kWideRows, residual);
    }
#pragma unroll
    for (int j = 0; j < kWideRows; ++j) {
      const int b = row + j * at.step;
      value[j] = my_bias;
      if (b >= rows) continue;
      const float* from = sums + wide_sum_at(p, 0, 0, b, at.local);
      float4 sum = *reinterpret_cast<const float4*>(from);
#pragma unroll 4
      for (int source = 1; source < p.cluster(); ++source)
        sum = add(sum, *reinterpret_cast<const float4*>(from + source * p.source_floats()));
      value[j] = add(sum, my_bias);
    }
    if (a.activation == static_cast<int>(Activation::kRelu)) {
#pragma unroll
      for (int j = 0; j < kWideRows; ++j) {
        value[j].x = value[j].x < 0.0f ? 0.0f : value[j].x;  // a NaN stays
        value[j].y = value[j].y < 0.0f ? 0.0f : value[j].y;
        value[j].z = value[j].z < 0.0f ? 0.0f : value[j].z;
        value[j].w = value[j].w < 0.0f ? 0.0f : value[j].w;
      }
    } else if (a.activation >= 0) {
#pragma unroll
      for (int j = 0; j < kWideRows; ++j) value[j] = activate_quad(a.activation, value[j]);
    }
#pragma unroll
    for (int j = 0; j < kWideRows; ++j) {
      const int b = row + j * at.step;
      if (b >= rows) break;
      if (p.gated) {
        const float* from = sums + wide_sum_at(p, 0, 1, b, at.local);
        float4 up = *reinterpret_cast<const float4*>(from);
#pragma unroll 4
        for (int source = 1; source < p.cluster(); ++source)
          up = add(up, *reinterpret_cast<const float4*>(from + source * p.source_floats()));
        up = add(up, up_bias);
        value[j] = make_float4(value[j].x * up.x, value[j].y * up.y, value[j].z * up.z, value[j].w * up.w);
      }
      store_quad_any<T>(a.y, ((rank << p.share_shift) + b) * a.ldy + at.column, a.y_float, vector, at.valid,
                        add(value[j], residual[j]));
    }
  }
}

}  // namespace tandem::kernels
