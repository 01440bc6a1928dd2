// Products on tensor cores: up to 64 rows of x of a 16-bit type.
//
// A warp's weights pass through a ring in shared memory, Core::kDepth units deep, filled by asynchronous copies from before
// the previous kernel's end to the last tile, across chunk and tile boundaries alike. A lane reads only what it copied
// itself, so the ring needs no barrier. x is staged for the whole block: all of the block's slice of k if it fits, else
// chunk by chunk through kSkinnyStages buffers.
#pragma once

#include <utility>

#include "kernels/skinny/finish.cuh"
#include "kernels/skinny/head.cuh"
#include "kernels/skinny/stage.cuh"
#include "kernels/skinny/tiled/cores.cuh"
#include "kernels/skinny/tiled/cursor.cuh"

namespace tandem::kernels {

/// Calls f with std::integral_constant 0 .. kCount - 1: accumulators may be indexed by constants only.
template <int kCount, class F>
__device__ inline void for_each_pass(F&& f) {
  [&]<int... kPass>(std::integer_sequence<int, kPass...>) {
    (f(std::integral_constant<int, kPass>{}), ...);
  }
  (std::make_integer_sequence<int, kCount>{});
}

template <class Core, bool kHead>
__global__ void __launch_bounds__(kSkinnyThreads, Core::kMinBlocks)
    skinny_mma_kernel(const __grid_constant__ SkinnyArgs a) {
  using Format = typename Core::Format;
  using T = typename Core::T;
  using X = typename Core::X;
  using Stored = typename Format::Stored;
  constexpr int kPassRows = Core::kPassRows;
  extern __shared__ __align__(128) unsigned char shared[];
  const SkinnyPlan& p = a.plan;
  X* xs = reinterpret_cast<X*>(shared);
  float* red = reinterpret_cast<float*>(shared + p.red_offset);
  const TileEnds ends(p, shared);
  T* norm_weights = reinterpret_cast<T*>(shared + p.norm_offset);
  uint64_t* barriers = reinterpret_cast<uint64_t*>(shared + p.barrier_offset);
  const Stored* weights = static_cast<const Stored*>(a.w);

  const int rank = p.cluster_shift > 0 ? cluster_rank() : 0;
  const int first_tile = static_cast<int>(blockIdx.x) >> p.cluster_shift;
  const WarpPlace at = warp_place<Core>(p, rank);
  const int rows = p.m;
  const bool normed = a.prologue != SkinnyPrologue::kRaw;
  uint64_t* pushed = barriers + kSkinnyStages;  // the cluster's partial sums
  if (threadIdx.x == 0) {
    for (int i = 0; i < kSkinnyStages; ++i) barrier_init(shared_address(barriers + i), kSkinnyThreads);
    if (p.cluster_shift > 0) {
      barrier_init(shared_address(pushed), 1);
      barrier_arrive_expect(shared_address(pushed),
                            4 * p.cluster() * p.planes() * shared_outputs(p, rows, rank));
    }
  }
  __syncwarp();
  if (p.cluster_shift > 0) {  // waited for before the first store to a peer
    fence_barrier_init();
    cluster_arrive_relaxed();
  }
  if (normed)
    stage_norm_weights(a, norm_weights);  // the oldest group of copies, so that it can be waited for alone

  // The lane's 16 bytes of load 0 of slot 0 of its warp's ring.
  uint4* ring = reinterpret_cast<uint4*>(shared + p.ring_offset) +
                static_cast<int>(threadIdx.x) / kWarp * (Core::kDepth * Core::kLoads * kWarp) + at.lane;
  // With group scales, after all warps' rings: the word of two scales that has the one of the lane's weight row in this unit.
  uint32_t* scale_ring = reinterpret_cast<uint32_t*>(shared + p.ring_offset) +
                         kSkinnyWarps * Core::kDepth * Core::kLoads * kWarp * 4 +
                         static_cast<int>(threadIdx.x) / kWarp * (Core::kDepth * kWarp) + at.lane;
  Cursor<Core> next;
  int slot = 0;
  auto produce = [&] {
    if (next.has(0)) {
      const int k = next.lane_k(p, 0, at.lane) >> Format::kStoredShift;
#pragma unroll
      for (int r = 0; r < Core::kLoads; ++r)
        cp_async_16(ring + (slot * Core::kLoads + r) * kWarp, next.rows[r] + k, 16);
      if constexpr (Format::kGroupScales) {
        const int number = next.scales + next.unit;
        if (at.lane < Core::kRowsPerWarp)
          cp_async_4(scale_ring + slot * kWarp, static_cast<const uint16_t*>(a.scales) + (number & ~1));
      }
      next.advance(p, weights, at, 1);
    }
    cp_async_commit();  // an empty group keeps the count of cp_async_wait right
  };
  next.start(p, weights, at, first_tile);
#pragma unroll 1
  for (; slot < Core::kDepth; ++slot) produce();
  slot = 0;
  pdl_launch_dependents();
  pdl_wait();
  __syncthreads();  // the barriers are initialised

  // Chunks of x are numbered over all tiles of the block; those of a resident slice are staged for the first tile only.
  // Weights as they are: the copies belong to whatever group of weights is committed next; a barrier tells when they are
  // complete. Codes: a thread asks for the next chunk before it multiplies one, and writes it after that.
  XStager<Format, Core::kXLoads> stager;
  enum class Step { kCopy, kRequest, kFinish };
  auto stage = [&]<Step kStep>(int number) {
    const int last = p.resident ? p.chunks : p.chunks * ceil_div(p.tiles - first_tile, at.stride);
    if (number >= last) return;
    const UnitRange range = chunk_range(p, at.slice, number % p.chunks);
    const int buffer = number & (kSkinnyStages - 1);
    X* to = p.resident ? xs + (range.begin - at.slice.begin) * Core::kUnit : xs + buffer * p.buffer_elements;
    if constexpr (kStep == Step::kCopy) {
      stage_raw(a, to, range, 0, rows);
      cp_async_arrive(shared_address(barriers + buffer));
    } else if constexpr (kStep == Step::kRequest) {
      stager.request(a, range, rows);
    } else {
      stager.finish(a, to, range, rows);
      barrier_arrive_written(shared_address(barriers + buffer));
    }
  };
  if (normed) {
    cp_async_wait<Core::kDepth>();
    __syncthreads();
    stage_norm<Format>(a, xs, red, norm_weights, 0, rows);
    __syncthreads();
  } else if constexpr (Format::kPlain) {
#pragma unroll 1
    for (int s = 0; s < kSkinnyStages - 1; ++s) stage.template operator()<Step::kCopy>(s);
  } else {
    stage.template operator()<Step::kRequest>(0);
    stage.template operator()<Step::kFinish>(0);
  }

  Core core;
  Candidate best[Core::kPasses];
#pragma unroll 1
  for (int tile = first_tile, round = 0; tile < p.tiles; tile += at.stride, ++round) {
    const TileView view{tile, rank, 0, rows};
    const bool has_bias = a.bias != nullptr && static_cast<int>(threadIdx.x) < p.tile_rows();
    const T my_bias =
        has_bias ? static_cast<const T*>(a.bias)[weight_row(p, tile, threadIdx.x)] : from_float<T>(0.0f);
    [[maybe_unused]] float my_scale = 0.0f;
    if constexpr (Format::kRowScales) {
      if (static_cast<int>(threadIdx.x) < p.tile_rows())
        my_scale = static_cast<const float*>(a.scales)[weight_row(p, tile, threadIdx.x)];
    }
    [[maybe_unused]] int scales = 0;
    if constexpr (Format::kGroupScales) scales = first_scale<Core>(p, at, tile);
    float residual = 0.0f;
    if constexpr (!kHead) residual = load_residual<T>(a, view, first_output(p, rank));
    core.clear();
#pragma unroll 1
    for (int chunk = 0; chunk < p.chunks; ++chunk) {
      const UnitRange range = chunk_range(p, at.slice, chunk);
      const UnitRange mine = warp_units(p, range, at.wk);
      const X* x = xs + mine.begin * Core::kUnit;  // normalised rows are staged from k = 0
      if (!normed) {
        const int number = round * p.chunks + chunk;
        const int buffer = number & (kSkinnyStages - 1);
        x = p.resident ? x - at.slice.begin * Core::kUnit
                       : x - range.begin * Core::kUnit + buffer * p.buffer_elements;
        if (round == 0 || !p.resident) {
          if constexpr (Format::kPlain) {
            if (!p.resident) __syncthreads();  // all are done with the buffer that is filled next
            stage.template operator()<Step::kCopy>(number + kSkinnyStages - 1);
          } else {
            stage.template operator()<Step::kRequest>(number + 1);
          }
          barrier_poll(barriers + buffer, (number / kSkinnyStages) & 1);
        }
      }
#pragma unroll 1
      for (int unit = mine.begin; unit < mine.end; ++unit, x += Core::kUnit) {
        cp_async_wait<Core::kDepth - 1>();
        uint4 w[Core::kLoads];
#pragma unroll
        for (int r = 0; r < Core::kLoads; ++r) w[r] = ring[(slot * Core::kLoads + r) * kWarp];
        if constexpr (Format::kPlain) {
          core.consume(w, x, p.x_stride, at.lane);
        } else {
          float scale[Core::kLoads] = {};
          if constexpr (Format::kGroupScales) {
            const uint32_t both = scale_ring[slot * kWarp];  // of lanes that copy none: not used
            const float own = __uint_as_float((scales + unit) % 2 != 0 ? both & 0xffff0000u : both << 16);
#pragma unroll
            for (int r = 0; r < Core::kLoads; ++r)
              scale[r] = __shfl_sync(0xffffffffu, own, Core::local_row(at.lane, r));
          }
          core.consume(w, x, p.x_stride, rows, at.lane, scale);
        }
        produce();
        if (++slot == Core::kDepth) slot = 0;
      }
      if constexpr (!Format::kPlain) {
        // The buffer is free: everybody has staged this chunk, after the one whose buffer it is was multiplied.
        if (!normed && (round == 0 || !p.resident))
          stage.template operator()<Step::kFinish>(round * p.chunks + chunk + 1);
      }
    }
    float* recv = reinterpret_cast<float*>(shared + p.recv_offset);
    for_each_pass<Core::kPasses>([&](auto pass) {
      constexpr int b0 = decltype(pass)::value * kPassRows;
      if (b0 >= rows) return;
      if (round > 0 || b0 > 0) __syncthreads();  // all are done with the previous partial sums
      if (b0 == 0 && static_cast<int>(threadIdx.x) < p.tile_rows()) {
        ends.bias[threadIdx.x] = to_float(my_bias);
        if constexpr (Format::kRowScales) ends.row_scales[threadIdx.x] = my_scale;
      }
      core.template store<decltype(pass)::value>(red + at.wk * kPassRows * p.red_ld, p.red_ld, at.local,
                                                 at.lane);
      __syncthreads();
      if constexpr (kHead) {
        take_pass<Format, kPassRows>(a, view, red, ends, b0, best[decltype(pass)::value]);
      } else if (p.cluster_shift > 0) {
        if (b0 == 0) cluster_wait();
        push_pass<kPassRows>(a, view, red, recv, pushed, b0);
      } else {
        finish_pass<Format, kPassRows>(a, view, red, ends, b0, residual);
      }
    });
    if (!kHead && p.cluster_shift > 0) {  // the block's only tile: recv is used once
      barrier_wait_cluster(shared_address(pushed));
      finish_share<Format>(a, view, ends, recv, residual);
    }
  }
  if constexpr (kHead) finish_head<Core::kPasses, kPassRows>(a, 0, rows, best, shared + p.red_offset);
}

}  // namespace tandem::kernels
