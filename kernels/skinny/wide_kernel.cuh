// Products on warpgroup tensor cores (sm_90a): up to 64 rows of x of a 16-bit type.
//
// A producer warp feeds a ring of stages through the tensor copy engine: a unit of k of 64 or 128 weight rows, and the same
// unit of x. The ring's first weights are requested before the previous kernel has ended, x after it. One or two
// warpgroups multiply straight out of shared memory, weights as the operand of 64 rows, so that neither weights nor x pass
// through registers. The blocks of a cluster split k.
#pragma once

#include "kernels/common/hopper_ptx.cuh"
#include "kernels/skinny/wide_finish.cuh"
#include "kernels/skinny/wide_head.cuh"

namespace tandem::kernels {

/// Shared addresses of a block.
struct WideShared {
  uint32_t base;      // a multiple of 1024
  uint32_t barriers;  // full [stages], empty [stages], pushed
  int stages;
  __device__ uint32_t full(int stage) const { return barriers + 8 * stage; }
  __device__ uint32_t empty(int stage) const { return barriers + 8 * (stages + stage); }
  __device__ uint32_t pushed() const { return barriers + 16 * stages; }
};

/// The stages that a block goes through, in order.
struct WideWalk {
  int units;  // of the block's slice
  int first_unit;
  int first_tile;
  int stride;  // from one of the block's tiles to the next
  int total;   // stages over all tiles
};
__device__ inline WideWalk wide_walk(const WidePlan& p, int rank) {
  const UnitRange slice = wide_slice(p, rank);
  WideWalk walk{.units = slice.end - slice.begin,
                .first_unit = slice.begin,
                .first_tile = static_cast<int>(blockIdx.x) >> p.cluster_shift,
                .stride = static_cast<int>(gridDim.x) >> p.cluster_shift,
                .total = 0};
  walk.total = ceil_div(p.tiles - walk.first_tile, walk.stride) * walk.units;
  return walk;
}

/// One thread: the requests of one stage after the other.
struct WideProducer {
  const WidePlan& p;
  const WideShared& shared;
  const WideWalk& walk;
  const CUtensorMap* w_map;
  const CUtensorMap* x_map;

  __device__ bool has_x(int i) const { return !p.resident || i < walk.units; }
  __device__ void weights(int i, int stage) const {
    const uint32_t barrier = shared.full(stage);
    barrier_arrive_expect(barrier, p.weight_bytes() + (has_x(i) ? p.x_bytes() : 0));
    const uint32_t to = shared.base + stage * p.stage_bytes();
    const int tile = walk.first_tile + i / walk.units * walk.stride;
    const int k = (walk.first_unit + i % walk.units) * kWideUnit;
    if (p.gated) {
      copy_box(to, w_map, k, 0, 0, tile * (p.tile_outputs() / 8), barrier);
    } else {
      copy_box(to, w_map, k, tile * p.tile_rows(), barrier);
    }
  }
  __device__ void x(int i, int stage) const {
    if (!has_x(i)) return;
    const uint32_t to = shared.base + (p.resident ? p.x_offset + i * p.x_bytes()
                                                  : stage * p.stage_bytes() + p.weight_bytes());
    copy_box(to, x_map, (walk.first_unit + i % walk.units) * kWideUnit, 0, shared.full(stage));
  }
  /// What fits into the ring before anybody has read it.
  __device__ int ahead() const { return min(p.stages, walk.total); }
  __device__ void rest() const {
    int stage = 0;
    uint32_t parity = 0;
#pragma unroll 1
    for (int i = ahead(); i < walk.total; ++i) {
      barrier_wait(shared.empty(stage), parity);
      weights(i, stage);
      x(i, stage);
      if (++stage == p.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }
};

template <typename T, int kBatch, bool kHead>
__device__ inline void wide_consume(const WideArgs& a, const WideShared& shared, const WideWalk& walk,
                                    int rank, int warp, unsigned char* memory,
                                    Candidate (&best)[kBatch / 4]) {
  const WidePlan& p = a.plan;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int tid = static_cast<int>(threadIdx.x);
  const uint32_t group_weights = shared.base + warp / 4 * (kWideGroupRows * kWideRowBytes);
  float* sums = reinterpret_cast<float*>(memory + p.sums_offset);
  float* bias_shared = reinterpret_cast<float*>(memory + p.bias_offset);
  const T* bias = static_cast<const T*>(a.bias);
  const int rows = wide_owned_rows(p, rank);
  const int threads = p.groups * kWideGroupThreads;

  int stage = 0;
  uint32_t parity = 0;
  int busy = -1;  // the stage that the running products read
  const auto release = [&] {
    if (busy >= 0 && lane == 0) barrier_arrive(shared.empty(busy));
  };

  bool waited = false;
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
    if (!waited) pdl_wait();
    waited = true;
    float4 residual[2];
    if constexpr (!kHead) {
#pragma unroll
      for (int q = 0; q < 2; ++q)
        residual[q] = load_residual_quad<T>(a, wide_quad(p, tile, rank, rows, tid + q * threads));
    }

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
      if (p.cluster_shift > 0) {
        cluster_wait();  // every block runs and has initialised its barrier
      } else {
        consumers_sync(p);  // the previous tile is written; nobody reads a stage under the sums
      }
      if (tid < p.tile_rows()) bias_shared[tid] = my_bias[0];
      wide_push<kBatch>(p, c, shared_address(sums), shared.pushed(), rank, warp, lane);
      consumers_sync(p);
      if (p.cluster_shift > 0)
        cluster_wait_pushed(reinterpret_cast<uint64_t*>(memory + p.barrier_offset) + 2 * p.stages);
      const int quads = rows * (p.tile_outputs() / 4);
#pragma unroll 1
      for (int i = tid; i < quads; i += 2 * threads) {
        const WideQuad quad[2] = {wide_quad(p, tile, rank, rows, i),
                                  wide_quad(p, tile, rank, rows, i + threads)};
        if (i != tid) {
          residual[0] = load_residual_quad<T>(a, quad[0]);
          residual[1] = load_residual_quad<T>(a, quad[1]);
        }
        write_quad<T>(a, quad[0], sums, bias_shared, residual[0]);
        write_quad<T>(a, quad[1], sums, bias_shared, residual[1]);
      }
    }
  }
}

template <typename T, int kBatch, bool kHead>
__global__ void __launch_bounds__(kWideMaxGroups* kWideGroupThreads + kWarp, kHead ? 1 : 2)
    skinny_wide_kernel(const __grid_constant__ CUtensorMap w_map, const __grid_constant__ CUtensorMap x_map,
                       const __grid_constant__ WideArgs a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char raw[];
  const WidePlan& p = a.plan;
  unsigned char* const memory =
      raw + (kWideAlignment - shared_address(raw) % kWideAlignment) % kWideAlignment;
  const WideShared shared{.base = shared_address(memory),
                          .barriers = shared_address(memory) + p.barrier_offset,
                          .stages = p.stages};
  // The shuffle tells the compiler that the number is the same in all lanes.
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarp, 0);
  const int rank = p.cluster_shift > 0 ? cluster_rank() : 0;
  const WideWalk walk = wide_walk(p, rank);
  const bool produces = warp == 4 * p.groups;
  const WideProducer producer{p, shared, walk, &w_map, &x_map};
  if (produces && threadIdx.x % kWarp == 0) {
    for (int s = 0; s < p.stages; ++s) {
      barrier_init(shared.full(s), 1);
      barrier_init(shared.empty(s), 4 * p.groups);
    }
    barrier_init(shared.pushed(), 1);
    if (p.cluster_shift > 0) {
      barrier_arrive_expect(shared.pushed(),
                            4 * p.cluster() * p.planes() * p.tile_outputs() * wide_owned_rows(p, rank));
    }
    fence_barrier_init();
#pragma unroll 1
    for (int s = 0; s < producer.ahead(); ++s) producer.weights(s, s);
    prefetch_map(&x_map);
  }
  __syncwarp();
  if (p.cluster_shift > 0) cluster_arrive_relaxed();
  __syncthreads();
  pdl_launch_dependents();
  Candidate best[kBatch / 4];
  if (produces) {
    if (threadIdx.x % kWarp == 0) {
      pdl_wait();
#pragma unroll 1
      for (int s = 0; s < producer.ahead(); ++s) producer.x(s, s);
      producer.rest();
    }
    __syncwarp();
    if (p.cluster_shift > 0) cluster_wait();
  } else {
    wide_consume<T, kBatch, kHead>(a, shared, walk, rank, warp, memory, best);
    if constexpr (kHead) {
      wide_share<kBatch>(best, reinterpret_cast<unsigned long long*>(memory + p.sums_offset), warp,
                         static_cast<int>(threadIdx.x) % kWarp);
    }
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
