// The kernels of the tiled products: a thread feeds a ring of stages through the copy engine; two warpgroups multiply out of shared
// memory; sums go through it too, to lanes that add bias, activation, gate and residual to 16 bytes at a time. The grid is
// persistent. An epilogue that nothing hides stops the tensor cores: GELU took 10 % of a product of 1024 deep. Form says what does.
#pragma once

#include "kernels/activation/activate.cuh"
#include "kernels/common/device.cuh"
#include "kernels/common/hopper_ptx.cuh"
#include "kernels/common/mma_ptx.cuh"
#include "kernels/common/ring.h"
#include "kernels/tiled_gemm/tiled_args.h"

namespace tandem::kernels::tiled_gemm {

/// Addresses of the barriers. "full": the copy engine has delivered to this block; "empty": all warps that read the stage, of all
/// blocks that this one copies to, are done. With finishers, "sums": all threads of a group have left theirs; "taken": they have
/// been read.
template <Form F>
struct Barriers {
  uint32_t base;
  static constexpr int kStages = Layout<F>::kStages;
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

/// This block's share of the two boxes of an operand that `Sharers` blocks read, to all of them.
template <int Sharers, typename RowOf>
__device__ inline void copy_share(uint32_t at, int box_bytes, const CUtensorMap* map, int column,
                                  const RowOf& row_of, int share, int blocks, uint32_t full) {
#pragma unroll
  for (int i = 0; i < kBoxes / Sharers; ++i) {
    const int box = share + i * Sharers;
    if constexpr (Sharers == 1) {
      copy_box(at + box * box_bytes, map, column, row_of(box), full);
    } else {
      copy_box_to_blocks(at + box * box_bytes, map, column, row_of(box), full, static_cast<uint16_t>(blocks));
    }
  }
}

/// One thread.
template <Form F, int Cluster>
__device__ void produce(const Plan& p, const CUtensorMap* x, const CUtensorMap* w, uint32_t shared,
                        const Barriers<F>& barriers) {
  using L = Layout<F>;
  constexpr int kRows = cluster_rows(Cluster);
  const int rank = block_rank<Cluster>();
  Ring<L::kStages> ring;
  const auto wait_empty = [&] { barrier_wait(barriers.empty(ring.stage), ring.parity ^ 1); };
  for (int index = first_tile(p); index < p.tiles(); index += tile_stride(p)) {
    const TilePlace place = tile_place(p, index, rank);
    const auto x_row = [&](int box) { return place.row + box * (kTileRows / kBoxes); };
    const auto w_row = [&](int box) { return box_row(p, place.column, box); };
    for (int step = 0; step < p.steps; ++step) {
      const uint32_t full = barriers.full(ring.stage);
      const uint32_t at = shared + ring.stage * L::kStageBytes;
      wait_empty();
      barrier_arrive_expect(full, L::kStageBytes);
      copy_share<cluster_columns(Cluster)>(at, L::kXBoxBytes, x, step * kTileDepth, x_row, rank / kRows,
                                           x_blocks(Cluster, rank), full);
      copy_share<kRows>(at + L::kXBytes, L::kWBoxBytes, w, step * kTileDepth, w_row, rank % kRows,
                        w_blocks(Cluster, rank), full);
      ring.advance();
    }
  }
  // Other blocks still arrive at these barriers, and read what this block has copied to them: it may end only after them.
  if constexpr (Cluster > 1) {
    for (int stage = 0; stage < L::kStages; ++stage, ring.advance()) wait_empty();
  }
}

/// A warp gives a stage back to those who copy into it; its products that read it have been waited for.
template <Form F, int Cluster>
__device__ inline void release(const Barriers<F>& barriers, int stage, int lane, int copiers) {
  if constexpr (Cluster == 1) {
    if (lane == 0) barrier_arrive(barriers.empty(stage));
  } else {
    if ((copiers >> lane & 1) != 0) barrier_arrive_cluster(cluster_address(barriers.empty(stage), lane));
  }
}

/// c (+)= 64 rows of x times a stage's rows of w, 16 of k from `within` bytes on; not waited for.
template <typename T, int Pieces>
__device__ inline void issue(float (&c)[Pieces][4], uint32_t x, uint32_t w, int within, bool accumulate) {
  wgmma_shared<T>(c, tile_descriptor(x + within, 0), tile_descriptor(w + within, 0), accumulate);
}

/// A warp's 16 rows of sums into shared memory from row `row` on, rounded to T, as the library's product before a pass.
template <typename T, int Pieces>
__device__ inline void leave_sums(uint32_t sums, const float (&c)[Pieces][4], int row, int lane) {
#pragma unroll
  for (int piece = 0; piece < Pieces; piece += 2) {
    const uint32_t matrices[4] = {pack2<T>(c[piece][0], c[piece][1]), pack2<T>(c[piece][2], c[piece][3]),
                                  pack2<T>(c[piece + 1][0], c[piece + 1][1]),
                                  pack2<T>(c[piece + 1][2], c[piece + 1][3])};
    stmatrix_x4(sums + matrix_row_at<Pieces>(row, piece, lane), matrices);
  }
}

/// A warpgroup that multiplies 64 rows of every tile, for finishers.
template <typename T, int Cluster>
__device__ void multiply(const Plan& p, uint32_t shared, const Barriers<Form::kFinishers>& barriers,
                         int group, int thread) {
  using L = Layout<Form::kFinishers>;
  const int lane = thread % kWarp;
  const int first_row = group * kProductRows + thread / kWarp * kWarpRows;
  const uint32_t x_at = shared + group * kProductRows * kRowBytes;
  const uint32_t w_at = shared + L::kXBytes;
  const int copiers = partners(Cluster, block_rank<Cluster>());
  Ring<L::kStages> ring;
  uint32_t parity = 0;  // of the sums
  for (int index = first_tile(p); index < p.tiles(); index += tile_stride(p)) {
    float c[L::kPieces][4];
    int previous = 0;
    for (int step = 0; step < p.steps; ++step) {
      barrier_wait(barriers.full(ring.stage), ring.parity);
      const uint32_t stage_at = ring.stage * L::kStageBytes;
      wgmma_begin();
#pragma unroll
      for (int j = 0; j < kTileDepth / 16; ++j)
        issue<T>(c, x_at + stage_at, w_at + stage_at, 32 * j, step != 0 || j != 0);
      wgmma_commit();
      if (step > 0) {
        wgmma_wait<1>();
        release<Form::kFinishers, Cluster>(barriers, previous, lane, copiers);
      }
      previous = ring.stage;
      ring.advance();
    }
    wgmma_wait<0>();
    hold(c);
    release<Form::kFinishers, Cluster>(barriers, previous, lane, copiers);
    barrier_wait(barriers.taken(group), parity ^ 1);
    parity ^= 1;
    leave_sums<T>(shared + L::kSumsAt, c, first_row, lane);
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

/// A lane's eight columns of a tile.
template <typename T, int Pieces, bool Gated>
struct LaneColumns {
  Finish mine;
  int column;  ///< of y
  bool inside;
  float bias[8];
  float up_bias[8];  ///< if gated

  __device__ LaneColumns(const Args& a, int first_column, int lane)
      : mine(finish_place<Pieces>(Gated, lane)),
        column(first_column + 8 * mine.piece),
        inside(column < a.plan.n) {
    const bool biased = inside && a.bias != nullptr;
    unpack<T>(load_eight<T>(a.bias, column, biased), bias);
    if constexpr (Gated) unpack<T>(load_eight<T>(a.bias, a.plan.n + column, biased), up_bias);
  }
};

/// A warp finishes Turns times rows_at_once() rows of y from `row` on, whose sums lie from row `sums_row` on.
template <typename T, int Turns, int Pieces, bool Gated>
__device__ inline void finish_rows(const Args& a, const LaneColumns<T, Pieces, Gated>& at, uint32_t sums,
                                   int sums_row, int row) {
  const auto turn_row = [&](int turn) { return turn * rows_at_once<Pieces>(Gated) + at.mine.row; };
  const auto there = [&](int turn) { return at.inside && row + turn_row(turn) < a.plan.m; };
  const auto sums_at = [&](int turn, int piece) {
    return load_sums(sums + piece_at<Pieces>(sums_row + turn_row(turn), piece));
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
      sum_eight<T>(up, sums_at(turn, at.mine.piece + Pieces / 2), at.up_bias);
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

/// The warps that finish for multiply().
template <typename T, int Cluster, bool Gated>
__device__ void finish(const Args& a, uint32_t sums, const Barriers<Form::kFinishers>& barriers, int thread) {
  constexpr int kPieces = Layout<Form::kFinishers>::kPieces;
  constexpr int kTurns = 2;
  constexpr int kAtOnce = kTurns * rows_at_once<kPieces>(Gated);
  const Plan& p = a.plan;
  const int warp = thread / kWarp;
  const int rank = block_rank<Cluster>();
  uint32_t parity = 0;
  for (int index = first_tile(p); index < p.tiles(); index += tile_stride(p)) {
    const TilePlace place = tile_place(p, index, rank);
    const LaneColumns<T, kPieces, Gated> columns(a, place.column, thread % kWarp);
    for (int group = 0; group < kGroups; ++group) {
      barrier_wait(barriers.sums(group), parity);
#pragma unroll 1
      for (int first = warp * kAtOnce; first < kProductRows; first += kFinishWarps * kAtOnce) {
        const int row = group * kProductRows + first;
        finish_rows<T, kTurns>(a, columns, sums, row, place.row + row);
      }
      barrier_arrive(barriers.taken(group));
    }
    parity ^= 1;
  }
}

/// A warpgroup with every other tile of the block: its 128 rows are two products, which also leave and are finished one after the
/// other, through 16 rows of shared memory of each warp.
/// Turns are needed, not only good: a stage's parity says which of two passes round the ring it is in, so a warpgroup may wait for its
/// own tile only when the other's stages have all been there.
template <typename T, int Cluster, bool Gated>
__device__ void ping_pong(const Args& a, uint32_t shared, const Barriers<Form::kPingPong>& barriers,
                          int group, int thread) {
  using L = Layout<Form::kPingPong>;
  constexpr int kFirstTurn = 1;  // named barrier; 0 is __syncthreads()
  constexpr int kTurnThreads = kGroups * kGroupThreads;
  constexpr int kTurns = 4;
  constexpr int kAtOnce = kTurns * rows_at_once<L::kPieces>(Gated);
  static_assert(kWarpRows % kAtOnce == 0);
  const Plan& p = a.plan;
  const int lane = thread % kWarp;
  const int warp = thread / kWarp;
  const int sums_row = (group * kGroupWarps + warp) * kWarpRows;
  const uint32_t sums = shared + L::kSumsAt;
  const uint32_t w_at = shared + L::kXBytes;
  const int rank = block_rank<Cluster>();
  const int copiers = partners(Cluster, rank);
  const int first = first_tile(p);
  const int stride = tile_stride(p);
  Ring<L::kStages> ring;
  if (group == 1) skip(ring, L::kStages, p.steps);
  for (int index = first + group * stride; index < p.tiles(); index += kGroups * stride) {
    float upper[L::kPieces][4], lower[L::kPieces][4];
    int previous = 0;
    if (index != first) wait_turn(kFirstTurn + group, kTurnThreads);
    for (int step = 0; step < p.steps; ++step) {
      barrier_wait(barriers.full(ring.stage), ring.parity);
      const uint32_t stage_at = ring.stage * L::kStageBytes;
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
        release<Form::kPingPong, Cluster>(barriers, previous, lane, copiers);
      }
      previous = ring.stage;
      ring.advance();
    }
    if (index + stride < p.tiles()) give_turn(kFirstTurn + 1 - group, kTurnThreads);
    wgmma_wait<0>();
    hold(upper);
    hold(lower);
    release<Form::kPingPong, Cluster>(barriers, previous, lane, copiers);
    skip(ring, L::kStages, p.steps);

    const TilePlace place = tile_place(p, index, rank);
    const LaneColumns<T, L::kPieces, Gated> columns(a, place.column, lane);
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

template <typename T, Form F, int Cluster, bool Gated>
__global__ void __launch_bounds__(kThreads, 1)
    tiled_gemm_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w,
                      const __grid_constant__ Args a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using L = Layout<F>;
  extern __shared__ __align__(1024) unsigned char raw[];
  const uint32_t shared = round_up(shared_address(raw), static_cast<uint32_t>(kAlignment));
  pdl_launch_dependents();
  const Barriers<F> barriers{shared + L::kBarriersAt};
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    prefetch_map(&x);
    prefetch_map(&w);
    for (int stage = 0; stage < L::kStages; ++stage) {
      barrier_init(barriers.full(stage), 1);
      barrier_init(barriers.empty(stage), partner_count(Cluster) * L::kStageWarps);
    }
    if constexpr (F == Form::kFinishers) {
      for (int group = 0; group < kGroups; ++group) {
        barrier_init(barriers.sums(group), kGroupThreads);
        barrier_init(barriers.taken(group), kFinishWarps * kWarp);
      }
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
    fewer_registers<F == Form::kFinishers ? 104 : 40>();
    if (thread == 0) produce<F, Cluster>(a.plan, &x, &w, shared, barriers);
    if constexpr (F == Form::kFinishers) {
      if (thread >= kWarp) finish<T, Cluster, Gated>(a, shared + L::kSumsAt, barriers, thread - kWarp);
    }
  } else if constexpr (F == Form::kFinishers) {
    more_registers<200>();
    multiply<T, Cluster>(a.plan, shared, barriers, group - 1, thread % kGroupThreads);
  } else {
    more_registers<232>();
    ping_pong<T, Cluster, Gated>(a, shared, barriers, group - 1, thread % kGroupThreads);
  }
#else
  __trap();
#endif
}

template <typename T, Form F, int Cluster>
Kernel find_gated(bool gated) {
  return gated ? tiled_gemm_kernel<T, F, Cluster, true> : tiled_gemm_kernel<T, F, Cluster, false>;
}
/// Finishers: clusters of 1 and 2; ping-pong: of 4 too.
template <typename T>
Kernel find_kernel(Form form, int cluster, bool gated) {
  if (form == Form::kFinishers)
    return (cluster == 1 ? find_gated<T, Form::kFinishers, 1> : find_gated<T, Form::kFinishers, 2>)(gated);
  if (cluster == 4) return find_gated<T, Form::kPingPong, 4>(gated);
  return (cluster == 1 ? find_gated<T, Form::kPingPong, 1> : find_gated<T, Form::kPingPong, 2>)(gated);
}

}  // namespace tandem::kernels::tiled_gemm
