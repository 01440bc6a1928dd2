// The kernel of the tiled products: a thread feeds a ring of stages through the copy engine; two warpgroups multiply out of shared
// memory in turns, each a tile of its own, and add bias, activation, gate and residual while the other one multiplies: an epilogue
// that nothing hides stops the tensor cores, and GELU took 10 % of a product of 1024 deep. The grid is persistent.
#pragma once

#include "kernels/activation/activate.cuh"
#include "kernels/common/device.cuh"
#include "kernels/common/hopper_ptx.cuh"
#include "kernels/common/mma_ptx.cuh"
#include "kernels/common/ring.h"
#include "kernels/tiled_gemm/tiled_args.h"

namespace tandem::kernels::tiled_gemm {

/// Addresses of the barriers. "full": the copy engine has delivered to this block; "empty": all warps that read the stage, of both
/// blocks that this one copies to, are done.
struct Barriers {
  uint32_t base;
  __device__ uint32_t full(int stage) const { return base + 8 * stage; }
  __device__ uint32_t empty(int stage) const { return base + 8 * (kStages + stage); }
};

/// This cluster's tiles, one after the other; all its blocks have as many.
__device__ inline int first_tile() {
  return static_cast<int>(blockIdx.x) / kCluster;
}
__device__ inline int tile_stride() {
  return static_cast<int>(gridDim.x) / kCluster;
}

/// One thread. Each block reads its own rows of x; of w one box, which both blocks get.
__device__ inline void produce(const Plan& p, const CUtensorMap* x, const CUtensorMap* w, uint32_t shared,
                               const Barriers& barriers) {
  const int rank = cluster_rank();
  Ring<kStages> ring;
  const auto wait_empty = [&] { barrier_wait(barriers.empty(ring.stage), ring.parity ^ 1); };
  for (int index = first_tile(); index < p.tiles(); index += tile_stride()) {
    const TilePlace place = tile_place(p, index, rank);
    for (int step = 0; step < p.steps; ++step) {
      const uint32_t full = barriers.full(ring.stage);
      const uint32_t at = shared + ring.stage * kStageBytes;
      wait_empty();
      barrier_arrive_expect(full, kStageBytes);
#pragma unroll
      for (int box = 0; box < kBoxes; ++box)
        copy_box(at + box * kBoxBytes, x, step * kTileDepth, place.row + box * kBoxRows, full);
      copy_box_to_blocks(at + kOperandBytes + rank * kBoxBytes, w, step * kTileDepth,
                         box_row(p, place.column, rank), full, (1 << kCluster) - 1);
      ring.advance();
    }
  }
  // The other block still arrives at these barriers, and reads what this block has copied to it: it may end only after that.
  for (int stage = 0; stage < kStages; ++stage, ring.advance()) wait_empty();
}

/// A warp gives a stage back to both blocks, which copy into it; its products that read it have been waited for.
__device__ inline void release(const Barriers& barriers, int stage, int lane) {
  if (lane < kCluster) barrier_arrive_cluster(cluster_address(barriers.empty(stage), lane));
}

/// c (+)= 64 rows of x times a stage's rows of w, 16 of k from `within` bytes on; not waited for.
template <typename T>
__device__ inline void issue(float (&c)[kPieces][4], uint32_t x, uint32_t w, int within, bool accumulate) {
  wgmma_shared<T>(c, tile_descriptor(x + within, 0), tile_descriptor(w + within, 0), accumulate);
}

/// A warp's 16 rows of sums into shared memory from row `row` on, rounded to T, as the library's product before a pass.
template <typename T>
__device__ inline void leave_sums(uint32_t sums, const float (&c)[kPieces][4], int row, int lane) {
#pragma unroll
  for (int piece = 0; piece < kPieces; piece += 2) {
    const uint32_t matrices[4] = {pack2<T>(c[piece][0], c[piece][1]), pack2<T>(c[piece][2], c[piece][3]),
                                  pack2<T>(c[piece + 1][0], c[piece + 1][1]),
                                  pack2<T>(c[piece + 1][2], c[piece + 1][3])};
    stmatrix_x4(sums + matrix_row_at(row, piece, lane), matrices);
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

/// A lane's eight columns of a tile.
template <typename T, bool Gated>
struct LaneColumns {
  Finish mine;
  int column;  ///< of y
  bool inside;
  float bias[8];
  float up_bias[8];  ///< if gated

  __device__ LaneColumns(const Args& a, int first_column, int lane)
      : mine(finish_place(Gated, lane)), column(first_column + 8 * mine.piece), inside(column < a.plan.n) {
    const bool biased = inside && a.bias != nullptr;
    unpack<T>(load_eight<T>(a.bias, column, biased), bias);
    if constexpr (Gated) unpack<T>(load_eight<T>(a.bias, a.plan.n + column, biased), up_bias);
  }
};

/// A warp finishes Turns times rows_at_once() rows of y from `row` on, whose sums lie from row `sums_row` on.
template <typename T, int Turns, bool Gated>
__device__ inline void finish_rows(const Args& a, const LaneColumns<T, Gated>& at, uint32_t sums,
                                   int sums_row, int row) {
  const auto turn_row = [&](int turn) { return turn * rows_at_once(Gated) + at.mine.row; };
  const auto there = [&](int turn) { return at.inside && row + turn_row(turn) < a.plan.m; };
  const auto sums_at = [&](int turn, int piece) {
    return load_sums(sums + piece_at(sums_row + turn_row(turn), piece));
  };
  uint4 residual[Turns] = {};
  if (a.residual != nullptr) {
#pragma unroll
    for (int turn = 0; turn < Turns; ++turn)
      residual[turn] =
          load_eight<T>(a.residual, (row + turn_row(turn)) * a.ld_residual + at.column, there(turn));
  }
  float v[Turns][8];
#pragma unroll
  for (int turn = 0; turn < Turns; ++turn) sum_eight<T>(v[turn], sums_at(turn, at.mine.piece), at.bias);
  if (a.activation >= 0) {
#pragma unroll
    for (int turn = 0; turn < Turns; ++turn) activate<T>(static_cast<Activation>(a.activation), v[turn]);
  }
  if constexpr (Gated) {
#pragma unroll
    for (int turn = 0; turn < Turns; ++turn) {
      float up[8];
      sum_eight<T>(up, sums_at(turn, at.mine.piece + kPieces / 2), at.up_bias);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[turn][i] *= up[i];
    }
  }
  if (a.residual != nullptr) {
#pragma unroll
    for (int turn = 0; turn < Turns; ++turn) sum_eight<T>(v[turn], residual[turn], v[turn]);
  }
#pragma unroll
  for (int turn = 0; turn < Turns; ++turn) {
    T* const to = static_cast<T*>(a.y) + (row + turn_row(turn)) * a.ldy + at.column;
    if (there(turn)) *reinterpret_cast<uint4*>(to) = pack<T>(v[turn]);
  }
}

/// A warpgroup with every other tile of the block: its 128 rows are two products, which also leave and are finished one after the
/// other, through 16 rows of shared memory of each warp.
/// Turns are needed, not only good: a stage's parity says which of two passes round the ring it is in, so a warpgroup may wait for its
/// own tile only when the other's stages have all been there.
template <typename T, bool Gated>
__device__ void ping_pong(const Args& a, uint32_t shared, const Barriers& barriers, int group, int thread) {
  constexpr int kFirstTurn = 1;  // named barrier; 0 is __syncthreads()
  constexpr int kTurnThreads = kGroups * kGroupThreads;
  constexpr int kTurns = 4;
  constexpr int kAtOnce = kTurns * rows_at_once(Gated);
  static_assert(kWarpRows % kAtOnce == 0);
  const Plan& p = a.plan;
  const int lane = thread % kWarp;
  const int warp = thread / kWarp;
  const int sums_row = (group * kGroupWarps + warp) * kWarpRows;
  const uint32_t sums = shared + kSumsAt;
  const uint32_t w_at = shared + kOperandBytes;
  const int rank = cluster_rank();
  const int first = first_tile();
  const int stride = tile_stride();
  Ring<kStages> ring;
  if (group == 1) skip(ring, p.steps);
  for (int index = first + group * stride; index < p.tiles(); index += kGroups * stride) {
    float upper[kPieces][4], lower[kPieces][4];
    int previous = 0;
    if (index != first) wait_turn(kFirstTurn + group, kTurnThreads);
    for (int step = 0; step < p.steps; ++step) {
      barrier_wait(barriers.full(ring.stage), ring.parity);
      const uint32_t stage_at = ring.stage * kStageBytes;
      wgmma_begin();
#pragma unroll
      for (int j = 0; j < kTileDepth / 16; ++j) {
        const bool accumulate = step != 0 || j != 0;
        issue<T>(upper, shared + stage_at, w_at + stage_at, 32 * j, accumulate);
        issue<T>(lower, shared + stage_at + kProductRows * kRowBytes, w_at + stage_at, 32 * j, accumulate);
      }
      wgmma_commit();
      if (step > 0) {
        wgmma_wait<1>();
        release(barriers, previous, lane);
      }
      previous = ring.stage;
      ring.advance();
    }
    if (index + stride < p.tiles()) give_turn(kFirstTurn + 1 - group, kTurnThreads);
    wgmma_wait<0>();
    hold(upper);
    hold(lower);
    release(barriers, previous, lane);
    skip(ring, p.steps);

    const TilePlace place = tile_place(p, index, rank);
    const LaneColumns<T, Gated> columns(a, place.column, lane);
#pragma unroll 1
    for (int product = 0; product < 2; ++product) {
      if (product == 0) {
        leave_sums<T>(sums, upper, sums_row, lane);
      } else {
        leave_sums<T>(sums, lower, sums_row, lane);
      }
      __syncwarp();
      const int row = place.row + product * kProductRows + warp * kWarpRows;
#pragma unroll 1
      for (int done = 0; done < kWarpRows; done += kAtOnce)
        finish_rows<T, kTurns>(a, columns, sums, sums_row + done, row + done);
      __syncwarp();  // before the next sums are left there
    }
  }
}

template <typename T, bool Gated>
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
      barrier_init(barriers.empty(stage), kCluster * kGroupWarps);
    }
    fence_barrier_init();
  }
  __syncthreads();
  cluster_arrive_relaxed();  // nobody copies or arrives before the other's barriers are there
  cluster_wait();
  pdl_wait();
  const int group = thread / kGroupThreads;
  if (group == 0) {
    fewer_registers<24>();
    if (thread == 0) produce(a.plan, &x, &w, shared, barriers);
  } else {
    more_registers<240>();
    ping_pong<T, Gated>(a, shared, barriers, group - 1, thread % kGroupThreads);
  }
#else
  __trap();
#endif
}

}  // namespace tandem::kernels::tiled_gemm
