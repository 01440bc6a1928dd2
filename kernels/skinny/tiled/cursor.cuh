// Walking a warp's share of the weights in the order in which it is used.
#pragma once

#include "kernels/skinny/args.h"
#include "kernels/skinny/skinny_map.h"

namespace tandem::kernels {

/// What does not change while a warp walks its weights.
struct WarpPlace {
  UnitRange slice;  // of the block
  int wk;           // of the warps that split k
  int local;        // first weight row of the warp in a tile
  int lane;
  int stride;  // from one of the block's tiles to the next
};

template <class Core>
__device__ inline WarpPlace warp_place(const SkinnyPlan& p, int rank) {
  // The shuffle tells the compiler that the number is the same in all lanes.
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarp, 0);
  return {.slice = slice_units(p, rank),
          .wk = warp & (p.warps_k() - 1),
          .local = (warp >> p.wk_shift) * Core::kRowsPerWarp,
          .lane = static_cast<int>(threadIdx.x) % kWarp,
          .stride = static_cast<int>(gridDim.x) >> p.cluster_shift};
}

/// The number of the first group scale of the weight row whose scales this lane brings: lane i has row i of the warp's.
template <class Core>
__device__ inline int first_scale(const SkinnyPlan& p, const WarpPlace& at, int tile) {
  return weight_row(p, tile, at.local + at.lane % Core::kRowsPerWarp) * ceil_div(p.k, kScaleGroup);
}

/// Stands at a unit of k of a chunk of a tile; at or past its end when there are no more.
template <class Core>
struct Cursor {
  using Format = typename Core::Format;
  using Stored = typename Format::Stored;
  int tile;
  int chunk;
  int unit;
  int end;  // of the warp's part of the chunk
  const Stored* rows[Core::kLoads];
  int scales;  // with group scales: the first one's number, of the weight row whose scales the lane copies

  __device__ void start(const SkinnyPlan& p, const Stored* w, const WarpPlace& at, int first_tile) {
    tile = first_tile;
    chunk = 0;
    open_tile(p, w, at);
    open_chunk(p, at);
    settle(p, w, at);
  }
  __device__ void advance(const SkinnyPlan& p, const Stored* w, const WarpPlace& at, int units) {
    unit += units;
    settle(p, w, at);
  }
  /// Is there a unit `ahead` of this one in the same part?
  __device__ bool has(int ahead) const { return unit + ahead < end; }
  /// This lane's k in that unit. A unit that reaches past k reads the row's last elements again: the staged x is zero there.
  __device__ int lane_k(const SkinnyPlan& p, int ahead, int lane) const {
    return min((unit + ahead) * Core::kUnit + Core::lane_k(lane), p.k - Format::kElements);
  }

 private:
  __device__ void open_tile(const SkinnyPlan& p, const Stored* w, const WarpPlace& at) {
#pragma unroll
    for (int i = 0; i < Core::kLoads; ++i) {
      rows[i] = w + static_cast<int64_t>(weight_row(p, tile, at.local + Core::local_row(at.lane, i))) *
                        (p.k >> Format::kStoredShift);
    }
    if constexpr (Format::kGroupScales) scales = first_scale<Core>(p, at, tile);
  }
  __device__ void open_chunk(const SkinnyPlan& p, const WarpPlace& at) {
    const UnitRange mine = warp_units(p, Core::kOneChunk ? at.slice : chunk_range(p, at.slice, chunk), at.wk);
    unit = mine.begin;
    end = mine.end;
  }
  /// To the first unit at or after the current place; parts may be empty.
  __device__ void settle(const SkinnyPlan& p, const Stored* w, const WarpPlace& at) {
    while (unit >= end && tile < p.tiles) {
      if (Core::kOneChunk || ++chunk == p.chunks) {
        chunk = 0;
        tile += at.stride;
        if (tile >= p.tiles) return;
        open_tile(p, w, at);
      }
      open_chunk(p, at);
    }
  }
};

}  // namespace tandem::kernels
