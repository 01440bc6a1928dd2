// From the accumulators of a warpgroup to y: the partial sums meet in the shared memory of the block that finishes them, in
// the order of the blocks, then bias, activation, gate and residual.
#pragma once

#include "kernels/common/barrier_ptx.cuh"
#include "kernels/common/device.cuh"
#include "kernels/skinny/finish.cuh"
#include "kernels/skinny/wide_args.h"

namespace tandem::kernels {

/// Barrier 1, of the block's consumers.
__device__ inline void consumers_sync(const WidePlan& p) {
  asm volatile("bar.sync 1, %0;" ::"r"(p.groups * kWideGroupThreads) : "memory");
}

/// This thread's accumulators to the partial sums of the blocks that finish them. `sums` and `pushed` are shared addresses,
/// the same in every block of the cluster.
template <int kBatch>
__device__ inline void wide_push(const WidePlan& p, const float (&c)[kBatch / 8][4], uint32_t sums,
                                 uint32_t pushed, int rank, int warp, int lane) {
  const WideOutput first = wide_output(p.gated, warp, lane, 0);
  const WideOutput second = wide_output(p.gated, warp, lane, 1);
  const uint32_t second_bytes =
      4 * ((second.plane - first.plane) * p.plane_floats() + second.column - first.column);
#pragma unroll
  for (int j = 0; j < kBatch / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int b = wide_batch_row(lane, j, i);
      if (b >= p.m) continue;
      const uint32_t local = sums + 4 * wide_sum_at(p, rank, first.plane, b, first.column);
      if (p.cluster_shift == 0) {
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(local), "f"(c[j][i]) : "memory");
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(local + second_bytes), "f"(c[j][2 + i]) : "memory");
      } else {
        const int owner = b >> p.share_shift;
        const uint32_t remote = cluster_address(local, owner);
        const uint32_t barrier = cluster_address(pushed, owner);
        store_cluster(remote, c[j][i], barrier);
        store_cluster(remote + second_bytes, c[j][2 + i], barrier);
      }
    }
  }
}

/// Four neighbouring outputs of one row.
struct WideQuad {
  int row;     // of x
  int local;   // first column in the tile
  int column;  // first column of y
  int valid;   // columns inside y: 4, or fewer at its end; not positive for a quad that is not there
};
__device__ inline WideQuad wide_quad(const WidePlan& p, int tile, int rank, int rows, int i) {
  const int quads_shift = __ffs(p.tile_outputs()) - 3;
  const int b = i >> quads_shift;
  const int local = 4 * (i & ((1 << quads_shift) - 1));
  const int column = tile * p.tile_outputs() + local;
  return {.row = (rank << p.share_shift) + b,
          .local = local,
          .column = column,
          .valid = b < rows ? min(4, p.n - column) : 0};
}

/// Zeros where there is no residual.
template <typename T>
__device__ inline float4 load_residual_quad(const WideArgs& a, const WideQuad& quad) {
  float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  if (a.residual == nullptr || quad.valid <= 0) return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  const int64_t at = quad.row * a.ld_residual + quad.column;
  if (a.vector && quad.valid == 4) {
    if (a.residual_float)
      return __ldcg(reinterpret_cast<const float4*>(static_cast<const float*>(a.residual) + at));
    const uint2 raw = __ldcg(reinterpret_cast<const uint2*>(static_cast<const T*>(a.residual) + at));
    const float2 low = unpack_pair<T>(raw.x);
    const float2 high = unpack_pair<T>(raw.y);
    return make_float4(low.x, low.y, high.x, high.y);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < quad.valid) {
      v[i] = a.residual_float ? load_fresh_element(static_cast<const float*>(a.residual) + at + i)
                              : load_fresh_element(static_cast<const T*>(a.residual) + at + i);
    }
  }
  return make_float4(v[0], v[1], v[2], v[3]);
}

__device__ inline float4 add(const float4& a, const float4& b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

/// Sums the blocks' parts in their order and writes the outputs. `sums` and `bias` as in the plan.
template <typename T>
__device__ inline void write_quad(const WideArgs& a, const WideQuad& quad, const float* sums,
                                  const float* bias, const float4& residual) {
  const WidePlan& p = a.plan;
  if (quad.valid <= 0) return;
  const float* from = sums + wide_sum_at(p, 0, 0, quad.row, quad.local);
  float4 value = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  float4 up = value;
#pragma unroll 2
  for (int source = 0; source < p.cluster(); ++source, from += p.source_floats()) {
    value = add(value, *reinterpret_cast<const float4*>(from));
    if (p.gated) up = add(up, *reinterpret_cast<const float4*>(from + p.plane_floats()));
  }
  value = add(value, *reinterpret_cast<const float4*>(bias + quad.local));
  float v[4] = {activate(a.activation, value.x), activate(a.activation, value.y),
                activate(a.activation, value.z), activate(a.activation, value.w)};
  if (p.gated) {
    up = add(up, *reinterpret_cast<const float4*>(bias + p.tile_outputs() + quad.local));
    v[0] *= up.x;
    v[1] *= up.y;
    v[2] *= up.z;
    v[3] *= up.w;
  }
  v[0] += residual.x;
  v[1] += residual.y;
  v[2] += residual.z;
  v[3] += residual.w;
  const int64_t at = quad.row * a.ldy + quad.column;
  if (a.vector && quad.valid == 4) {
    if (a.y_float) {
      *reinterpret_cast<float4*>(static_cast<float*>(a.y) + at) = make_float4(v[0], v[1], v[2], v[3]);
    } else {
      *reinterpret_cast<uint2*>(static_cast<T*>(a.y) + at) =
          make_uint2(pack_pair<T>(v[0], v[1]), pack_pair<T>(v[2], v[3]));
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i >= quad.valid) break;
    if (a.y_float) {
      static_cast<float*>(a.y)[at + i] = v[i];
    } else {
      static_cast<T*>(a.y)[at + i] = from_float<T>(v[i]);
    }
  }
}

}  // namespace tandem::kernels
