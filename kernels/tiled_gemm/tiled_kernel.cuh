// The kernel of the tiled products: a thread feeds a ring of stages through the copy engine; two warpgroups of 64 rows and 256
// columns multiply out of shared memory, and add bias and activation in registers. The grid is persistent: the ring is already
// filled with the next tile while one is stored, and the warpgroups are apart by some steps, so that one multiplies while the
// other is in its epilogue.
#pragma once

#include "kernels/activation/activate.cuh"
#include "kernels/common/device.cuh"
#include "kernels/common/hopper_ptx.cuh"
#include "kernels/common/mma_ptx.cuh"
#include "kernels/common/ring.h"
#include "kernels/tiled_gemm/tiled_args.h"

namespace tandem::kernels::tiled_gemm {

/// Addresses of the barriers. "full": the copy engine has delivered to this block; "empty": all warps that multiply, of all blocks
/// that the next copy goes to, are done; "residual": it is in a warp's strip; "start": the first warpgroup is far enough ahead.
struct Barriers {
  uint32_t base;
  __device__ uint32_t full(int stage) const { return base + 8 * stage; }
  __device__ uint32_t empty(int stage) const { return base + 8 * (kStages + stage); }
  __device__ uint32_t residual(int warp, int strip) const {
    return base + 8 * (2 * kStages + warp * kStrips + strip);
  }
  __device__ uint32_t start() const { return base + 8 * (2 * kStages + kWarps * kStrips); }
};

/// This cluster's tiles, one after the other; all its blocks have as many.
__device__ inline int first_tile(const Plan& p) {
  return static_cast<int>(blockIdx.x) / p.cluster;
}
__device__ inline int tile_stride(const Plan& p) {
  return static_cast<int>(gridDim.x) / p.cluster;
}

/// One thread. Each block reads its own rows of x; of w those of one box a block, which all blocks of the cluster get.
template <int Cluster>
__device__ void produce(const Plan& p, const CUtensorMap* x, const CUtensorMap* w, uint32_t shared,
                        const Barriers& barriers) {
  const int rank = Cluster == 1 ? 0 : cluster_rank();
  Ring<kStages> ring;
  const auto wait_empty = [&] { barrier_wait(barriers.empty(ring.stage), ring.parity ^ 1); };
  for (int index = first_tile(p); index < p.tiles(); index += tile_stride(p)) {
    const TilePlace place = tile_place(p, index, rank);
    for (int step = 0; step < p.steps; ++step) {
      const uint32_t full = barriers.full(ring.stage);
      const uint32_t at = shared + ring.stage * kStageBytes;
      wait_empty();
      barrier_arrive_expect(full, kStageBytes);
      copy_box(at, x, step * kTileDepth, place.row, full);
#pragma unroll
      for (int i = 0; i < kBoxes / Cluster; ++i) {
        const int box = rank + i * Cluster;
        const uint32_t to = at + kXBytes + box * kBoxBytes;
        const int row = box_row(p, place.column, box);
        if constexpr (Cluster == 1) {
          copy_box(to, w, step * kTileDepth, row, full);
        } else {
          copy_box_to_blocks(to, w, step * kTileDepth, row, full, (1 << Cluster) - 1);
        }
      }
      ring.advance();
    }
  }
  // Other blocks still arrive at these barriers, and read what this block has copied to them: it may end only after them.
  if constexpr (Cluster > 1) {
    for (int stage = 0; stage < kStages; ++stage, ring.advance()) wait_empty();
  }
}

/// c (+)= a warpgroup's rows of x times a stage's rows of w; not waited for.
template <typename T>
__device__ inline void issue(float (&c)[kTileColumns / 8][4], uint32_t x, uint32_t w, bool accumulate) {
#pragma unroll
  for (int j = 0; j < kTileDepth / 16; ++j) {
    const uint32_t within = 32 * j;  // 16 elements further inside the swizzled 128 bytes
    wgmma_shared<T>(c, tile_descriptor(x + within, 0), tile_descriptor(w + within, 0), accumulate || j != 0);
  }
}

/// A lane's pairs of biases: zeros where there are none. Volatile, so that they are on their way during the products.
template <typename T>
__device__ inline void load_bias(uint32_t (&pairs)[kTileColumns / 8], const Args& a, int column, int lane) {
#pragma unroll
  for (int j = 0; j < kTileColumns / 8; ++j) {
    const int at = bias_at(a.plan, column, lane, j);
    pairs[j] = 0;
    if (a.bias != nullptr && at >= 0)
      asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(pairs[j]) : "l"(static_cast<const T*>(a.bias) + at));
  }
}

/// What a warp stores: its 16 rows of a tile, through its own two strips of shared memory.
struct WarpTile {
  const CUtensorMap* y;
  const CUtensorMap* residual;
  uint32_t strips;
  uint32_t barriers;  ///< of the residual in each strip
  TilePlace place;
  int lane;

  __device__ uint32_t strip(int i) const { return strips + i % kStrips * kStripBytes; }
  __device__ uint32_t barrier(int i) const { return barriers + i % kStrips * 8; }
  /// One thread, which has waited for the strip's last content to leave.
  __device__ void fetch_residual(int i) const {
    barrier_arrive_expect(barrier(i), kStripBytes);
    copy_box(strip(i), residual, place.column + i * kStripColumns, place.row, barrier(i));
  }
};

/// The sums of a warp's rows, finished.
template <typename T, bool Gated>
__device__ inline void store_rows(const Args& a, const WarpTile& tile, const float (&c)[kTileColumns / 8][4],
                                  const uint32_t (&bias)[kTileColumns / 8]) {
  constexpr int kPieces = 4;  // of 8 columns at a time
  constexpr int kStripPieces = kStripColumns / 8;
  constexpr int kLast = tile_columns(Gated) / kStripColumns;
  const auto biased = [&](int piece, int e) {
    const float2 b = unpack2<T>(bias[piece]);
    return c[piece][e] + (e % 2 == 0 ? b.x : b.y);
  };
#pragma unroll
  for (int first = 0; first < kLast * kStripPieces; first += kPieces) {
    float v[4 * kPieces];
#pragma unroll
    for (int i = 0; i < 4 * kPieces; ++i) v[i] = biased(first + i / 4, i % 4);
    if (a.activation >= 0) activate<T>(static_cast<Activation>(a.activation), v);
    if constexpr (Gated) {
#pragma unroll
      for (int i = 0; i < 4 * kPieces; ++i) v[i] *= biased(kBoxRows / 8 + first + i / 4, i % 4);
    }
    const int strip = first / kStripPieces;
    const int within = first % kStripPieces;
    const uint32_t to = tile.strip(strip);
    if (within == 0) {
      if (a.has_residual) {
        barrier_wait(tile.barrier(strip), strip / kStrips % 2);
      } else {
        if (tile.lane == 0) copies_out_wait_read<kStrips - 1>();  // the strip's last content has left
        __syncwarp();
      }
    }
#pragma unroll
    for (int j = 0; j < kPieces; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t at = to + strip_offset(tile.lane, within + j, half);
        float2 pair = {v[4 * j + 2 * half], v[4 * j + 2 * half + 1]};
        if (a.has_residual) {
          const float2 r = unpack2<T>(load_shared_word(at));
          pair.x += r.x;
          pair.y += r.y;
        }
        store_shared(at, __uint_as_float(pack2<T>(pair.x, pair.y)));
      }
    }
    if (within + kPieces < kStripPieces) continue;
    fence_async_proxy();
    __syncwarp();
    if (tile.lane == 0) {
      const TilePlace& place = tile.place;
      const int column = place.column + strip * kStripColumns;
      if (place.row < a.plan.m && column < a.plan.n) copy_box_out(tile.y, column, place.row, to);
      copies_out_commit();  // also without a copy: groups are counted
      if (a.has_residual && strip + kStrips < kLast) {
        copies_out_wait_read<0>();
        tile.fetch_residual(strip + kStrips);
      }
    }
  }
}

template <typename T, int Cluster, bool Gated>
__device__ void consume(const Args& a, const CUtensorMap* y, const CUtensorMap* residual, uint32_t shared,
                        const Barriers& barriers, int group, int thread) {
  const Plan& p = a.plan;
  const int lane = thread % kWarp;
  const int warp = thread / kWarp;
  const int rank = Cluster == 1 ? 0 : cluster_rank();
  const uint32_t x_at = shared + group * kGroupRows * kRowBytes;
  const uint32_t w_at = shared + kXBytes;
  const int first_row = group * kGroupRows + warp * kWarpRows;
  const int own = first_row / kWarpRows;
  Ring<kStages> ring;
  int steps_to_start = group == 0 ? p.stagger : 0;

  const auto release = [&](int stage) {  // the warp's products that read it have been waited for
    if constexpr (Cluster == 1) {
      if (lane == 0) barrier_arrive(barriers.empty(stage));
    } else {
      if (lane < Cluster) barrier_arrive_cluster(cluster_address(barriers.empty(stage), lane));
    }
  };

  if (group > 0 && p.stagger > 0) barrier_wait(barriers.start(), 0);
  for (int index = first_tile(p); index < p.tiles(); index += tile_stride(p)) {
    WarpTile tile{.y = y,
                  .residual = residual,
                  .strips = shared + kStripsAt + own * kStrips * kStripBytes,
                  .barriers = barriers.residual(own, 0),
                  .place = tile_place(p, index, rank),
                  .lane = lane};
    tile.place.row += first_row;
    if (a.has_residual && lane == 0) {
      copies_out_wait_read<0>();
      for (int strip = 0; strip < kStrips; ++strip) tile.fetch_residual(strip);
    }
    __syncwarp();
    uint32_t bias[kTileColumns / 8];
    load_bias<T>(bias, a, tile.place.column, lane);
    float c[kTileColumns / 8][4];
    int previous = 0;
    for (int step = 0; step < p.steps; ++step) {
      barrier_wait(barriers.full(ring.stage), ring.parity);
      const uint32_t stage_at = ring.stage * kStageBytes;
      wgmma_begin();
      issue<T>(c, x_at + stage_at, w_at + stage_at, step != 0);
      wgmma_commit();
      if (step > 0) {
        wgmma_wait<1>();
        release(previous);
      }
      if (steps_to_start > 0 && --steps_to_start == 0 && lane == 0) barrier_arrive(barriers.start());
      previous = ring.stage;
      ring.advance();
    }
    wgmma_wait<0>();
    hold(c);
    release(previous);
    store_rows<T, Gated>(a, tile, c, bias);
  }
  if (lane == 0) copies_out_wait();
}

template <typename T, int Cluster, bool Gated>
__global__ void __launch_bounds__(kThreads, 1)
    tiled_gemm_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w,
                      const __grid_constant__ CUtensorMap y, const __grid_constant__ CUtensorMap residual,
                      const __grid_constant__ Args a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char raw[];
  const uint32_t shared = round_up(shared_address(raw), static_cast<uint32_t>(kAlignment));
  pdl_launch_dependents();
  const Barriers barriers{shared + kBarriersAt};
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    prefetch_map(&x);
    prefetch_map(&w);
    prefetch_map(&y);
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(barriers.full(stage), 1);
      barrier_init(barriers.empty(stage), Cluster * kWarps);
    }
    for (int i = 0; i < kWarps * kStrips; ++i) barrier_init(barriers.residual(0, i), 1);
    barrier_init(barriers.start(), kWarps / kGroups);
    fence_barrier_init();
  }
  __syncthreads();
  if constexpr (Cluster > 1) {  // nobody copies or arrives before the others' barriers are there
    cluster_arrive_relaxed();
    cluster_wait();
  }
  pdl_wait();
  const int group = thread / kGroupThreads;
  if (group == 0) {
    fewer_registers<40>();
    if (thread == 0) produce<Cluster>(a.plan, &x, &w, shared, barriers);
  } else {
    more_registers<232>();
    consume<T, Cluster, Gated>(a, &y, &residual, shared, barriers, group - 1, thread % kGroupThreads);
  }
#else
  __trap();
#endif
}

template <typename T>
Kernel find_kernel(int cluster, bool gated) {
  if (gated) return cluster == 1 ? tiled_gemm_kernel<T, 1, true> : tiled_gemm_kernel<T, 2, true>;
  return cluster == 1 ? tiled_gemm_kernel<T, 1, false> : tiled_gemm_kernel<T, 2, false>;
}

}  // namespace tandem::kernels::tiled_gemm
