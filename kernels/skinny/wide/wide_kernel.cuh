// Products on warpgroup tensor cores (sm_90a): up to 64 rows of x of a 16-bit type, or of codes.
//
// A producer warp feeds a ring of stages through the tensor copy engine: a unit of k of 64 or 128 weight rows, and the same
// unit of x. The ring's first weights are requested before the previous kernel has ended, x after it. One or two
// warpgroups multiply straight out of shared memory, weights as the operand of 64 rows, so that neither weights nor x pass
// through registers; only weights of fewer bits than x do (wide_unpack.cuh). The blocks of a cluster split k.
#pragma once

#include "kernels/skinny/formats/wide_bitmap.cuh"
#include "kernels/skinny/formats/wide_fours.cuh"
#include "kernels/skinny/wide/wide_finish.cuh"
#include "kernels/skinny/wide/wide_head.cuh"
#include "kernels/skinny/wide/wide_product.cuh"
#include "kernels/skinny/wide/wide_stream.cuh"

namespace tandem::kernels {

/// Warpgroups of a block, at most, and blocks of as many whose registers a multiprocessor holds.
template <class Format>
constexpr int wide_groups() {
  return Format::kBitmap ? 1 : kWideMaxGroups;
}
template <class Format>
constexpr int wide_blocks(bool head) {
  if (Format::kBitmap) return 3;
  return head || Format::kFreshSums || Format::kUnpacks || Format::kTwoOfFour ? 1 : 2;
}

template <class Format, int kBatch, bool kHead>
__device__ inline void wide_consume(const WideArgs& a, const WideShared& shared, const WideWalk& walk,
                                    int warp, unsigned char* memory, Candidate (&best)[kBatch / 4]) {
  using T = typename Format::T;
  const WidePlan& p = a.plan;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int tid = static_cast<int>(threadIdx.x);
  const uint32_t group_weights = shared.base + warp / 4 * (kWideGroupRows * kWideRowBytes);
  const uint32_t bias_shared = shared.base + p.bias_offset;
  const T* bias = static_cast<const T*>(a.bias);
  const int rows = wide_owned_rows(p, walk.rank);

  WideCursor at;
  WideScales group_scales;
  if constexpr (Format::kGroupScales)
    group_scales.request(a, walk.first_tile, walk.first_unit, 0, warp, lane);
  WideMetadata metadata{shared.base + p.own_offset + warp * kWideMetadataBytes};
  WideBitmapRows bitmap;
  if constexpr (Format::kBitmap) bitmap.start(a, walk, memory, warp);
  if constexpr (Format::kTwoOfFour) metadata.request(a, walk, walk.first_tile, 0, warp, lane);
  float head_x_scales[kHead && Format::kXScales ? kBatch / 4 : 1];

#pragma unroll 1
  for (int tile = walk.first_tile; tile < p.tiles; tile += walk.stride) {
    // Bias and scale of what this thread finishes: for the head, of its two rows of w; else of weight row tid, plane by plane.
    float my_bias[2] = {0.0f, 0.0f};
    float my_scale[2] = {0.0f, 0.0f};
    float my_gamma[3] = {0.0f, 0.0f, 0.0f};  // of the next norm, of the residual's, and its beta
    const auto load_ends = [&](int row, int i) {
      if (bias != nullptr) my_bias[i] = to_float(bias[row]);
      if constexpr (Format::kStats)
        load_stats_ends<T>(a.stats, p.planes() * p.n, row, my_bias[i], my_scale[i], my_gamma);
      if constexpr (Format::kRowScales) my_scale[i] = static_cast<const float*>(a.scales)[row];
    };
    if (bias != nullptr || Format::kRowScales || Format::kStats) {
      if constexpr (kHead) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = tile * p.tile_rows() + wide_output(false, warp, lane, half).column;
          if (row < p.n) load_ends(row, half);
        }
      } else if (tid < p.tile_rows()) {
        const int up = p.gated && tid >= p.tile_outputs() ? 1 : 0;
        const int column = tile * p.tile_outputs() + tid - (up ? p.tile_outputs() : 0);
        if (column < p.n) load_ends(column + up * p.n, 0);
      }
    }
    if (tile == walk.first_tile) {
      pdl_wait();
      if constexpr (kHead && Format::kXScales) load_head_scales<kBatch>(a, lane, head_x_scales);
    }
    WideColumns columns = wide_columns(p, tile, tid);
    float4 residual[kWideRows];
    float x_scale[kWideRows] = {1.0f, 1.0f};
    // Sums of groups and all rows of x, or the stream of a bitmap, leave no registers for residuals.
    constexpr bool kLate = (Format::kGroupScales && kBatch == 64) || Format::kBitmap;
    if constexpr (!kHead) {
      if constexpr (!kLate) load_residuals<T>(a, columns, walk.rank, rows, columns.row, residual);
      if constexpr (Format::kXScales) load_x_scales(a, columns, walk.rank, rows, columns.row, x_scale);
      if constexpr (Format::kStats) {
        if (tile == walk.first_tile)
          take_stats(p, a.stats, shared.base + p.stats_offset, walk.rank, rows, tid);
      }
    }

    float c[kBatch / 8][4] = {};
    if constexpr (Format::kUnpacks) {
      const uint32_t warp_weights = shared.base + warp * (kWideGroupRows / 4 * kWideRowBytes);
      wide_multiply_unpacked<Format, kBatch>(a, shared, walk, tile, warp_weights, warp, lane, at,
                                             group_scales, c);
    } else if constexpr (Format::kBitmap) {
      wide_multiply_bitmap<kBatch>(a, shared, walk, warp, lane, at, bitmap, c);
    } else if constexpr (Format::kTwoOfFour) {
      wide_multiply_fours<Format, kBatch>(a, shared, walk, tile, group_weights, warp, lane, at, metadata, c);
    } else if constexpr (std::is_same_v<typename Format::Acc, int>) {
      // A block's sums leave as floats: exact below 2^24, above that rounded once, in the same way in every run.
      int sums[kBatch / 8][4] = {};
      wide_multiply<Format, kBatch>(p, shared, walk.units, group_weights, lane, at, sums);
#pragma unroll
      for (int j = 0; j < kBatch / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) c[j][e] = static_cast<float>(sums[j][e]);
      }
    } else {
      wide_multiply<Format, kBatch>(p, shared, walk.units, group_weights, lane, at, c);
    }

    if constexpr (kHead) {
      if constexpr (Format::kCodes) scale_sums<Format, kBatch>(c, my_scale, head_x_scales);
      wide_take<kBatch>(a, c, best, my_bias, tile, warp, lane);
    } else {
      // What follows must not be computed before the products: it would take registers through all of them.
      int end_lane = lane;
      int end_warp = warp;
      WideShared end_shared = shared;
      if constexpr (Format::kCodes || Format::kBitmap || Format::kStats)
        asm volatile(""
                     : "+r"(end_lane), "+r"(end_warp), "+r"(end_shared.base), "+r"(end_shared.sums),
                       "+r"(end_shared.barriers));
      if constexpr (Format::kBitmap) columns = wide_columns(p, tile, 32 * end_warp + end_lane);
      if (p.cluster_shift > 0) cluster_wait();  // every block runs and has initialised its barriers
      // The previous tile is written; nobody reads a stage that sums are about to overwrite.
      if (p.cluster_shift == 0 || p.bulk_sums) consumers_sync(p);
      if (tid < p.tile_rows()) {
        store_shared(bias_shared + 4 * tid, my_bias[0]);
        if constexpr (Format::kRowScales || Format::kStats)
          store_shared(bias_shared + 4 * (p.tile_rows() + tid), my_scale[0]);
        if constexpr (Format::kStats) store_gammas(p, my_gamma, bias_shared, tid);
      }
      if (p.cluster_shift > 0 && !p.bulk_sums) {
        wide_push_sums<kBatch>(p, c, end_shared, walk.rank, end_warp, end_lane);
      } else {
        wide_store_sums<kBatch>(p, c, end_shared, end_warp, end_lane);
      }
      if (p.bulk_sums) fence_async_proxy();
      consumers_sync(p);
      if (p.bulk_sums) wide_send_sums(p, shared, walk.rank, tid);
      if (p.cluster_shift > 0) {
        barrier_wait_cluster(end_shared.pushed());
        if (p.bulk_sums) {
          __syncwarp();
          cluster_arrive_relaxed();  // what this block waited for has left its peers' memory
        }
      }
      if constexpr (kLate) load_residuals<T>(a, columns, walk.rank, rows, columns.row, residual);
      wide_finish<Format>(a, columns, walk.rank, rows, shared.sums, bias_shared, residual, x_scale);
    }
  }
}

template <class Format, int kBatch, bool kHead>
__global__ void __launch_bounds__(wide_groups<Format>() * kWideGroupThreads + kWarp,
                                  wide_blocks<Format>(kHead))
    skinny_wide_kernel(const __grid_constant__ CUtensorMap w_map, const __grid_constant__ CUtensorMap x_map,
                       const __grid_constant__ WideArgs a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  pdl_launch_dependents();
  extern __shared__ __align__(1024) unsigned char raw[];
  const WidePlan& p = a.plan;
  unsigned char* const memory =
      raw + (kWideAlignment - shared_address(raw) % kWideAlignment) % kWideAlignment;
  const WideShared shared{.base = shared_address(memory),
                          .sums = shared_address(memory) + p.sums_offset,
                          .barriers = shared_address(memory) + p.barrier_offset,
                          .stages = p.stages};
  // The shuffle tells the compiler that the number is the same in all lanes.
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarp, 0);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const WideWalk walk = wide_walk(p);
  const bool produces = warp == 4 * p.groups;
  WideProducer<Format> producer{p, shared, walk, &w_map, &x_map, walk.first_tile};
  if (produces) {
    if (lane < p.stages) {
      barrier_init(shared.full(lane), 1);
      barrier_init(shared.empty(lane), 4 * p.groups);
      if constexpr (Format::kBitmap) barrier_init(shared.sorted(lane), 1);
    }
    if (lane == 0 && p.cluster_shift > 0) {
      barrier_init(shared.pushed(), 1);
      barrier_arrive_expect(shared.pushed(), wide_pushed_bytes(p, walk.rank));
    }
    fence_barrier_init();
    __syncwarp();
    if (lane == 0) {
#pragma unroll 1
      for (int s = 0; s < producer.ahead(); ++s) producer.weights(s, s);
      prefetch_map(&x_map);
    }
    __syncwarp();
  }
  if (p.cluster_shift > 0) cluster_arrive_relaxed();
  __syncthreads();
  Candidate best[kBatch / 4];
  if (produces) {
    if constexpr (Format::kBitmap) {
      pdl_wait();
      wide_sort_stages(producer, shared, walk, lane);
    } else if (lane == 0) {
      pdl_wait();
      producer.rest();
    }
    __syncwarp();
    if (p.cluster_shift > 0) cluster_wait();
    if (p.bulk_sums) cluster_arrive_relaxed();
  } else {
    wide_consume<Format, kBatch, kHead>(a, shared, walk, warp, memory, best);
    if constexpr (kHead) {
      wide_share<kBatch>(best, reinterpret_cast<unsigned long long*>(memory + p.sums_offset), warp, lane);
    }
  }
  if (p.bulk_sums) {
    __syncwarp();
    cluster_wait();  // a block's memory must last until its sums have left it
  }
  if constexpr (kHead) {
    wide_finish_head<kBatch>(a, reinterpret_cast<unsigned long long*>(memory + p.sums_offset),
                             reinterpret_cast<int*>(memory + p.bias_offset));
  }
#else
  __trap();
#endif
}

}  // namespace tandem::kernels
