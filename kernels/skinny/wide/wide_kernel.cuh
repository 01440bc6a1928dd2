// Products on warpgroup tensor cores (sm_90a): up to 64 rows of x of a 16-bit type.
//
// A producer warp feeds a ring of stages through the tensor copy engine: a unit of k of 64 or 128 weight rows, and the same
// unit of x. The ring's first weights are requested before the previous kernel has ended, x after it. One or two
// warpgroups multiply straight out of shared memory, weights as the operand of 64 rows, so that neither weights nor x pass
// through registers. The blocks of a cluster split k.
#pragma once

#include "kernels/skinny/wide/wide_finish.cuh"
#include "kernels/skinny/wide/wide_head.cuh"
#include "kernels/skinny/wide/wide_stream.cuh"

namespace tandem::kernels {

template <typename T, int kBatch, bool kHead>
__device__ inline void wide_consume(const WideArgs& a, const WideShared& shared, const WideWalk& walk,
                                    int warp, unsigned char* memory, Candidate (&best)[kBatch / 4]) {
  const WidePlan& p = a.plan;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int tid = static_cast<int>(threadIdx.x);
  const uint32_t group_weights = shared.base + warp / 4 * (kWideGroupRows * kWideRowBytes);
  const uint32_t bias_shared = shared.base + p.bias_offset;
  const T* bias = static_cast<const T*>(a.bias);
  const int rows = wide_owned_rows(p, walk.rank);

  int stage = 0;
  uint32_t parity = 0;
  int busy = -1;  // the stage that the running products read
  const auto release = [&] {
    if (busy >= 0 && lane == 0) barrier_arrive(shared.empty(busy));
  };

#pragma unroll 1
  for (int tile = walk.first_tile; tile < p.tiles; tile += walk.stride) {
    // The bias of what this thread finishes: for the head, of its two rows of w; else of weight row tid, plane by plane.
    float my_bias[2] = {0.0f, 0.0f};
    if (bias != nullptr) {
      if constexpr (kHead) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = tile * p.tile_rows() + wide_output(false, warp, lane, half).column;
          if (row < p.n) my_bias[half] = to_float(bias[row]);
        }
      } else if (tid < p.tile_rows()) {
        const int up = p.gated && tid >= p.tile_outputs() ? 1 : 0;
        const int column = tile * p.tile_outputs() + tid - (up ? p.tile_outputs() : 0);
        if (column < p.n) my_bias[0] = to_float(bias[column + up * p.n]);
      }
    }
    if (tile == walk.first_tile) pdl_wait();
    const WideColumns columns = wide_columns(p, tile, tid);
    float4 residual[kWideRows];
    if constexpr (!kHead) load_residuals<T>(a, columns, walk.rank, rows, columns.row, residual);

    float c[kBatch / 8][4] = {};
#pragma unroll 1
    for (int unit = 0; unit < walk.units; ++unit) {
      const uint32_t weights = group_weights + stage * p.stage_bytes();
      const uint32_t x = shared.base + (p.resident ? p.x_offset + unit * p.x_bytes()
                                                   : stage * p.stage_bytes() + p.weight_bytes());
      barrier_wait(shared.full(stage), parity);
      wgmma_begin();
#pragma unroll
      for (int step = 0; step < kWideUnit / 16; ++step) {
        wgmma_shared<T>(c, tile_descriptor(weights + 32 * step, 0), tile_descriptor(x + 32 * step, 0), true);
      }
      wgmma_commit();
      wgmma_wait<1>();
      release();
      busy = stage;
      if (++stage == p.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
    wgmma_wait<0>();
    hold(c);
    release();
    busy = -1;

    if constexpr (kHead) {
      wide_take<kBatch>(a, c, best, my_bias, tile, warp, lane);
    } else {
      if (p.cluster_shift > 0) cluster_wait();  // every block runs and has initialised its barriers
      // The previous tile is written; nobody reads a stage that sums are about to overwrite.
      if (p.cluster_shift == 0 || p.bulk_sums) consumers_sync(p);
      if (tid < p.tile_rows()) store_shared(bias_shared + 4 * tid, my_bias[0]);
      if (p.cluster_shift > 0 && !p.bulk_sums) {
        wide_push_sums<kBatch>(p, c, shared, walk.rank, warp, lane);
      } else {
        wide_store_sums<kBatch>(p, c, shared, warp, lane);
      }
      if (p.bulk_sums) fence_async_proxy();
      consumers_sync(p);
      if (p.bulk_sums) wide_send_sums(p, shared, walk.rank, tid);
      if (p.cluster_shift > 0) {
        barrier_wait_cluster(
            shared_address(reinterpret_cast<uint64_t*>(memory + p.barrier_offset) + 2 * p.stages));
        if (p.bulk_sums) {
          __syncwarp();
          cluster_arrive_relaxed();  // what this block waited for has left its peers' memory
        }
      }
      wide_finish<T>(a, columns, walk.rank, rows, shared.sums, bias_shared, residual);
    }
  }
}

template <typename T, int kBatch, bool kHead>
__global__ void __launch_bounds__(kWideMaxGroups* kWideGroupThreads + kWarp, kHead ? 1 : 2)
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
  WideProducer producer{p, shared, walk, &w_map, &x_map, walk.first_tile};
  if (produces) {
    if (lane < p.stages) {
      barrier_init(shared.full(lane), 1);
      barrier_init(shared.empty(lane), 4 * p.groups);
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
    if (lane == 0) {
      pdl_wait();
      producer.rest();
    }
    __syncwarp();
    if (p.cluster_shift > 0) cluster_wait();
    if (p.bulk_sums) cluster_arrive_relaxed();
  } else {
    wide_consume<T, kBatch, kHead>(a, shared, walk, warp, memory, best);
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
