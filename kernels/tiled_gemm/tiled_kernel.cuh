// The kernel of the tiled products: a thread feeds a ring of stages through the copy engine; two warpgroups of 64 rows and 256
// columns multiply out of shared memory and leave their sums there; three more warps add bias, activation, gate and residual and
// store, while the next tile is multiplied. The grid is persistent. An epilogue in the multiplying warpgroups themselves stops the
// tensor cores: GELU took 10 % of a product of 1024 deep.
#pragma once

#include "kernels/activation/activate.cuh"
#include "kernels/common/device.cuh"
#include "kernels/common/hopper_ptx.cuh"
#include "kernels/common/mma_ptx.cuh"
#include "kernels/common/ring.h"
#include "kernels/tiled_gemm/tiled_args.h"

namespace tandem::kernels::tiled_gemm {

/// Addresses of the barriers. "full": the copy engine has delivered to this block; "empty": all warps that multiply, of all blocks
/// that the next copy goes to, are done; "sums": all threads of a group have left theirs; "taken": they have been read.
struct Barriers {
  uint32_t base;
  __device__ uint32_t full(int stage) const { return base + 8 * stage; }
  __device__ uint32_t empty(int stage) const { return base + 8 * (kStages + stage); }
  __device__ uint32_t sums(int group) const { return base + 8 * (2 * kStages + group); }
  __device__ uint32_t taken(int group) const { return base + 8 * (2 * kStages + kGroups + group); }
};

/// This cluster's tiles, one after the other; all its blocks have as many.
__device__ inline int first_tile(const Plan& p) {
  return static_cast<int>(blockIdx.x) / p.cluster;
}
__device__ inline int tile_stride(const Plan& p) {
  return static_cast<int>(gridDim.x) / p.cluster;
}
template <int Cluster>
__device__ inline int block_rank() {
  return Cluster == 1 ? 0 : cluster_rank();
}

/// One thread. Each block reads its own rows of x; of w those of one box a block, which all blocks of the cluster get.
template <int Cluster>
__device__ void produce(const Plan& p, const CUtensorMap* x, const CUtensorMap* w, uint32_t shared,
                        const Barriers& barriers) {
  const int rank = block_rank<Cluster>();
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
__device__ inline void issue(float (&c)[kPieces][4], uint32_t x, uint32_t w, bool accumulate) {
#pragma unroll
  for (int j = 0; j < kTileDepth / 16; ++j) {
    const uint32_t within = 32 * j;  // 16 elements further inside the swizzled 128 bytes
    wgmma_shared<T>(c, tile_descriptor(x + within, 0), tile_descriptor(w + within, 0), accumulate || j != 0);
  }
}

/// A warpgroup that multiplies. Its sums leave rounded to T, as the library's product before a pass.
template <typename T, int Cluster>
__device__ void multiply(const Plan& p, uint32_t shared, const Barriers& barriers, int group, int thread) {
  const int lane = thread % kWarp;
  const int first_row = group * kGroupRows + thread / kWarp * kWarpRows;
  const uint32_t x_at = shared + group * kGroupRows * kRowBytes;
  const uint32_t w_at = shared + kXBytes;
  Ring<kStages> ring;
  uint32_t parity = 0;  // of the sums

  const auto release = [&](int stage) {  // the warp's products that read it have been waited for
    if constexpr (Cluster == 1) {
      if (lane == 0) barrier_arrive(barriers.empty(stage));
    } else {
      if (lane < Cluster) barrier_arrive_cluster(cluster_address(barriers.empty(stage), lane));
    }
  };

  for (int index = first_tile(p); index < p.tiles(); index += tile_stride(p)) {
    float c[kPieces][4];
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
      previous = ring.stage;
      ring.advance();
    }
    wgmma_wait<0>();
    hold(c);
    release(previous);
    barrier_wait(barriers.taken(group), parity ^ 1);
    parity ^= 1;
#pragma unroll
    for (int piece = 0; piece < kPieces; piece += 2) {
      const uint32_t matrices[4] = {pack2<T>(c[piece][0], c[piece][1]), pack2<T>(c[piece][2], c[piece][3]),
                                    pack2<T>(c[piece + 1][0], c[piece + 1][1]),
                                    pack2<T>(c[piece + 1][2], c[piece + 1][3])};
      stmatrix_x4(shared + kSumsAt + matrix_row_at(first_row, piece, lane), matrices);
    }
    barrier_arrive(barriers.sums(group));
  }
}

/// Eight columns of a row, or zeros.
template <typename T>
__device__ inline uint4 load_eight(const void* from, int64_t at, bool inside) {
  return inside ? *reinterpret_cast<const uint4*>(static_cast<const T*>(from) + at) : make_uint4(0, 0, 0, 0);
}
/// The same of the sums in shared memory: as 16 bytes, which the compiler would read as eight elements.
__device__ inline uint4 load_sums(uint32_t from) {
  const float4 raw = load_shared_quad(from);
  return make_uint4(__float_as_uint(raw.x), __float_as_uint(raw.y), __float_as_uint(raw.z),
                    __float_as_uint(raw.w));
}
/// v = eight values of T, plus `add`.
template <typename T>
__device__ inline void sum_eight(float (&v)[8], const uint4& raw, const float (&add)[8]) {
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack2<T>(words[i]);
    v[2 * i] = pair.x + add[2 * i];
    v[2 * i + 1] = pair.y + add[2 * i + 1];
  }
}

/// The warps that finish: each lane has the same eight columns of every row of a tile.
template <typename T, int Cluster, bool Gated>
__device__ void finish(const Args& a, uint32_t sums, const Barriers& barriers, int thread) {
  constexpr int kTurns = 2;  // rows of a lane at once
  constexpr int kAtOnce = kTurns * rows_at_once(Gated);
  const Plan& p = a.plan;
  const Finish mine = finish_place(Gated, thread % kWarp);
  const int warp = thread / kWarp;
  const int rank = block_rank<Cluster>();
  uint32_t parity = 0;
  for (int index = first_tile(p); index < p.tiles(); index += tile_stride(p)) {
    const TilePlace place = tile_place(p, index, rank);
    const int column = place.column + 8 * mine.piece;
    const bool inside = column < p.n;
    const bool biased = inside && a.bias != nullptr;
    float bias[8], up_bias[8];
    unpack<T>(load_eight<T>(a.bias, column, biased), bias);
    if constexpr (Gated) unpack<T>(load_eight<T>(a.bias, p.n + column, biased), up_bias);
    for (int group = 0; group < kGroups; ++group) {
      barrier_wait(barriers.sums(group), parity);
#pragma unroll 1
      for (int first = warp * kAtOnce; first < kGroupRows; first += kFinishWarps * kAtOnce) {
        const auto row_of = [&](int turn) {
          return group * kGroupRows + first + turn * rows_at_once(Gated) + mine.row;
        };
        const auto there = [&](int turn) { return inside && place.row + row_of(turn) < p.m; };
        uint4 residual[kTurns] = {};
        if (a.residual != nullptr) {
#pragma unroll
          for (int turn = 0; turn < kTurns; ++turn)
            residual[turn] =
                load_eight<T>(a.residual, (place.row + row_of(turn)) * a.ld_residual + column, there(turn));
        }
        float v[kTurns][8];
#pragma unroll
        for (int turn = 0; turn < kTurns; ++turn)
          sum_eight<T>(v[turn], load_sums(sums + piece_at(row_of(turn), mine.piece)), bias);
        if (a.activation >= 0) {
#pragma unroll
          for (int turn = 0; turn < kTurns; ++turn)
            activate<T>(static_cast<Activation>(a.activation), v[turn]);
        }
        if constexpr (Gated) {
#pragma unroll
          for (int turn = 0; turn < kTurns; ++turn) {
            float up[8];
            sum_eight<T>(up, load_sums(sums + piece_at(row_of(turn), mine.piece + kPieces / 2)), up_bias);
#pragma unroll
            for (int i = 0; i < 8; ++i) v[turn][i] *= up[i];
          }
        }
        if (a.residual != nullptr) {
#pragma unroll
          for (int turn = 0; turn < kTurns; ++turn) sum_eight<T>(v[turn], residual[turn], v[turn]);
        }
#pragma unroll
        for (int turn = 0; turn < kTurns; ++turn) {
          T* const to = static_cast<T*>(a.y) + (place.row + row_of(turn)) * a.ldy + column;
          if (there(turn)) *reinterpret_cast<uint4*>(to) = pack<T>(v[turn]);
        }
      }
      barrier_arrive(barriers.taken(group));
    }
    parity ^= 1;
  }
}

template <typename T, int Cluster, bool Gated>
__global__ void __launch_bounds__(kThreads, 1)
    tiled_gemm_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w,
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
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(barriers.full(stage), 1);
      barrier_init(barriers.empty(stage), Cluster * kWarps);
    }
    for (int group = 0; group < kGroups; ++group) {
      barrier_init(barriers.sums(group), kGroupThreads);
      barrier_init(barriers.taken(group), kFinishWarps * kWarp);
    }
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
    fewer_registers<104>();
    if (thread == 0) produce<Cluster>(a.plan, &x, &w, shared, barriers);
    if (thread >= kWarp) finish<T, Cluster, Gated>(a, shared + kSumsAt, barriers, thread - kWarp);
  } else {
    more_registers<200>();
    multiply<T, Cluster>(a.plan, shared, barriers, group - 1, thread % kGroupThreads);
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
