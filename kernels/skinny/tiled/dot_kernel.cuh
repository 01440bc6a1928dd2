// Products on CUDA cores: 1 to 4 rows of x, and every number of rows in fp32.
//
// A warp keeps up to Core::kDepth units of its weight rows in registers, requested before the previous kernel has ended, and
// requests the next ones as soon as they are used, across tiles: while a tile is summed up and written, the next one's
// weights are under way. x is staged whole.
#pragma once

#include "kernels/skinny/finish.cuh"
#include "kernels/skinny/head.cuh"
#include "kernels/skinny/stage.cuh"
#include "kernels/skinny/tiled/cores.cuh"
#include "kernels/skinny/tiled/cursor.cuh"

namespace tandem::kernels {

template <class Core, bool kHead>
__global__ void __launch_bounds__(kSkinnyThreads, Core::kMinBlocks)
    skinny_dot_kernel(const __grid_constant__ SkinnyArgs a) {
  using T = typename Core::T;
  extern __shared__ __align__(128) unsigned char shared[];
  const SkinnyPlan& p = a.plan;
  T* xs = reinterpret_cast<T*>(shared);
  float* red = reinterpret_cast<float*>(shared + p.red_offset);
  const TileEnds ends(p, shared);
  T* norm_weights = reinterpret_cast<T*>(shared + p.norm_offset);
  const T* weights = static_cast<const T*>(a.w);

  const int first_tile = static_cast<int>(blockIdx.x);
  const WarpPlace at = warp_place<Core>(p, 0);
  const int row0 = static_cast<int>(blockIdx.y) * p.batch;
  const int rows = min(p.batch, p.m - row0);
  const bool normed = a.prologue != SkinnyPrologue::kRaw;

  Cursor<Core> next;  // a group of up to kDepth units
  uint4 w[Core::kDepth][Core::kLoads];
  auto load = [&](int s) {
    if (!next.has(s)) return;
    const int k = next.lane_k(p, s, at.lane);
#pragma unroll
    for (int r = 0; r < Core::kLoads; ++r) w[s][r] = load_stream(next.rows[r] + k);
  };
  next.start(p, weights, at, first_tile);
#pragma unroll
  for (int s = 0; s < Core::kDepth; ++s) load(s);
  if (normed) stage_norm_weights(a, norm_weights);
  touch_params(a);
  pdl_launch_dependents();
  pdl_wait();

  if (normed) {
    cp_async_wait<0>();
    __syncthreads();
    stage_norm<typename Core::Format>(a, xs, red, norm_weights, row0, rows);
  } else {
    stage_raw(a, xs, UnitRange{0, p.units}, row0, rows);
    cp_async_commit();
    cp_async_wait<0>();
  }
  __syncthreads();

  Core core;
  Candidate best[1];
#pragma unroll 1
  for (int tile = first_tile; tile < p.tiles; tile += at.stride) {
    const TileView view{tile, 0, row0, rows};
    const bool has_bias = a.bias != nullptr && static_cast<int>(threadIdx.x) < p.tile_rows();
    const T my_bias =
        has_bias ? static_cast<const T*>(a.bias)[weight_row(p, tile, threadIdx.x)] : from_float<T>(0.0f);
    float residual = 0.0f;
    if constexpr (!kHead) residual = load_residual<T>(a, view, first_output(p, 0));
    core.clear();
    const UnitRange mine = warp_units(p, UnitRange{0, p.units}, at.wk);
    const T* x = xs + mine.begin * Core::kUnit;
#pragma unroll 1
    for (int left = mine.end - mine.begin; left > 0; left -= Core::kDepth, x += Core::kDepth * Core::kUnit) {
      next.advance(p, weights, at, Core::kDepth);
#pragma unroll
      for (int s = 0; s < Core::kDepth; ++s) {
        if (s < left) core.consume(w[s], x + s * Core::kUnit, p.x_stride, at.lane);
        load(s);
      }
    }
    if (tile != first_tile) __syncthreads();  // all are done with the previous partial sums
    if (static_cast<int>(threadIdx.x) < p.tile_rows()) ends.bias[threadIdx.x] = to_float(my_bias);
    core.template store<0>(red + at.wk * Core::kPassRows * p.red_ld, p.red_ld, at.local, at.lane);
    __syncthreads();
    if constexpr (kHead) {
      take_pass<typename Core::Format, Core::kPassRows>(a, view, red, ends, 0, best[0]);
    } else {
      finish_pass<typename Core::Format, Core::kPassRows>(a, view, red, ends, 0, residual);
    }
  }
  if constexpr (kHead) finish_head<1, Core::kPassRows>(a, row0, rows, best, shared + p.red_offset);
}

}  // namespace tandem::kernels
