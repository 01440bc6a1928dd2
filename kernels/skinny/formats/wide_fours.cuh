// 2:4 weights of the wide kernel: values out of the stages into the products as they are, their metadata through registers.
#pragma once

#include "kernels/common/hopper_ptx.cuh"
#include "kernels/common/memory_ptx.cuh"
#include "kernels/skinny/wide/wide_args.h"
#include "kernels/skinny/wide/wide_product.cuh"

namespace tandem::kernels {

/// The metadata of a warp's 16 weight rows: kWideMetadataUnits units at a time, asked for as long before they are used.
struct WideMetadata {
  uint32_t buffers;  // shared address of the warp's two
  int turn = 0;      // whose turn it is

  /// Asks for the units from `unit` of the slice on, into the buffer whose turn is next.
  __device__ void request(const WideArgs& a, const WideWalk& walk, int tile, int unit, int warp,
                          int lane) const {
    const WidePlan& p = a.plan;
    const int first = walk.first_unit + unit;
    const int piece = lane % kWideMetadataUnits;
    if (tile >= p.tiles || first + piece >= p.units) return;
    const int last_row = p.planes() * p.n - 1;
    const uint32_t to = buffers + (turn ^ 1) * (kWideMetadataBytes / 2);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int local = 4 * i + lane / kWideMetadataUnits;
      // Past the last row: any row's, the values are zero.
      const int row = min(wide_weight_row(p, tile, 16 * warp + local), last_row);
      const auto* from = static_cast<const unsigned char*>(a.metadata) +
                         (static_cast<int64_t>(row) * p.units + first + piece) * 16;
      cp_async_16(to + wide_metadata_piece(local, piece), from, 16);
    }
    cp_async_commit();  // or nobody waits for them
  }
  /// By all lanes, once the last products of the other buffer have their metadata.
  __device__ void take_turn() {
    cp_async_wait<0>();
    __syncwarp();
    turn ^= 1;
  }
  /// Of unit `unit` of the slice: of the lane's two rows, for the products of either half.
  __device__ void load(int unit, int lane, uint32_t (&to)[2]) const {
    const int row = lane >> 2;
    const uint32_t buffer = buffers + turn * (kWideMetadataBytes / 2);
    const int number = unit % kWideMetadataUnits;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int byte = wide_metadata_byte(lane & 3, half);
      to[half] = load_shared_16(buffer + wide_metadata_piece(row, number) + byte) |
                 load_shared_16(buffer + wide_metadata_piece(row + 8, number) + byte) << 16;
    }
  }
};

/// c: zeros. `metadata`: with the tile's first units asked for; leaves those of the next tile asked for.
template <class Format, int kBatch>
__device__ inline void wide_multiply_fours(const WideArgs& a, const WideShared& shared, const WideWalk& walk,
                                           int tile, uint32_t group_weights, int warp, int lane,
                                           WideCursor& at, WideMetadata& metadata,
                                           float (&c)[kBatch / 8][4]) {
  const WidePlan& p = a.plan;
  uint32_t indices[2][2] = {};  // of the running products and of the ones before or after
  const auto multiply = [&](int unit, uint32_t(&now)[2], uint32_t(&before)[2]) {
    if (unit % kWideMetadataUnits == 0) {
      metadata.take_turn();
      const bool last = unit + kWideMetadataUnits >= walk.units;
      metadata.request(a, walk, last ? tile + walk.stride : tile, last ? 0 : unit + kWideMetadataUnits, warp,
                       lane);
    }
    metadata.load(unit, lane, now);
    const uint32_t weights = group_weights + at.stage * p.stage_bytes;
    const uint32_t x = wide_x<kBatch * kWideRowBytes * Format::kXBoxes>(p, shared, at, unit);
    barrier_wait(shared.full(at.stage), at.parity);
    wgmma_begin();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t of_weights = weights + 64 * half;
      const uint32_t of_x = x + half * kBatch * kWideRowBytes;
      wgmma_sparse<0>(c, tile_descriptor(of_weights, 0), tile_descriptor(of_x, 0), now[half]);
      wgmma_sparse<1>(c, tile_descriptor(of_weights + 32, 0), tile_descriptor(of_x + 64, 0), now[half]);
    }
    wgmma_commit();
    wgmma_wait<1>();
    asm volatile("" : "+r"(before[0]), "+r"(before[1])::"memory");  // read by products until now
    at.release(shared, lane);
    at.advance(p);
  };
#pragma unroll 1
  for (int unit = 0; unit < walk.units; unit += 2) {
    multiply(unit, indices[0], indices[1]);
    if (unit + 1 < walk.units) multiply(unit + 1, indices[1], indices[0]);
  }
  wgmma_wait<0>();
  hold(c);
#pragma unroll
  for (int i = 0; i < 2; ++i) asm volatile("" : "+r"(indices[i][0]), "+r"(indices[i][1])::"memory");
  at.release(shared, lane);
  at.busy = -1;
}

}  // namespace tandem::kernels
