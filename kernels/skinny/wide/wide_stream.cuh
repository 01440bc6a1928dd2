// How weights and x come into a wide kernel's shared memory: the producer's requests to the copy engine.
#pragma once

#include "kernels/skinny/wide/wide_finish.cuh"
#include "kernels/skinny/wide/wide_format.cuh"

namespace tandem::kernels {

/// The stages that a block goes through, in order.
struct WideWalk {
  int rank;   // of the block in its cluster
  int units;  // of the block's slice
  int first_unit;
  int first_tile;
  int stride;  // from one of the block's tiles to the next
  int total;   // stages over all tiles
};
__device__ inline WideWalk wide_walk(const WidePlan& p) {
  const int block = static_cast<int>(blockIdx.x);
  const int rank = block & (p.cluster() - 1);
  const int tile = block >> p.cluster_shift;
  const int stride = p.grid >> p.cluster_shift;
  const UnitRange slice = wide_slice(p, rank);
  const int units = slice.end - slice.begin;
  return {.rank = rank,
          .units = units,
          .first_unit = slice.begin,
          .first_tile = tile,
          .stride = stride,
          .total = ceil_div(p.tiles - tile, stride) * units};
}

/// The producer warp's first lane: the requests of one stage after the other.
template <class Format>
struct WideProducer {
  const WidePlan& p;
  const WideShared& shared;
  const WideWalk& walk;
  const CUtensorMap* w_map;
  const CUtensorMap* x_map;
  int tile;
  int unit = 0;  // of the next weights

  /// Does stage i bring x?
  __device__ bool has_x(int i) const { return !p.resident || i < walk.units; }
  /// The next stage's weights.
  __device__ void weights(int i, int stage) {
    const uint32_t barrier = shared.full(stage);
    barrier_arrive_expect(barrier, p.weight_bytes() + (has_x(i) ? p.x_bytes() : 0));
    const uint32_t to = shared.base + stage * p.stage_bytes;
    const int column = (walk.first_unit + unit) * Format::kColumns;
    if constexpr (!Format::kBitmap) {
      if (p.gated) {
        copy_box(to, w_map, column, 0, 0, tile * (p.tile_outputs() / 8), barrier);
      } else {
        copy_box(to, w_map, column, tile * p.tile_rows(), barrier);
      }
    }
    if (++unit == walk.units) {
      unit = 0;
      tile += walk.stride;
    }
  }
  /// The x of stage i, which is unit `u` of the slice.
  __device__ void x(int i, int u, int stage) const {
    if (!has_x(i)) return;
    const uint32_t to =
        shared.base + (p.resident ? p.x_offset + u * p.x_bytes() : stage * p.stage_bytes + p.weight_bytes());
#pragma unroll
    for (int box = 0; box < Format::kXBoxes; ++box) {
      copy_box(to + box * p.box_bytes(), x_map,
               (walk.first_unit + u) * Format::kUnit + box * Format::kBoxColumns, 0, shared.full(stage));
    }
  }
  /// What fits into the ring before anybody has read it.
  __device__ int ahead() const {
    return min(p.stages, walk.total);
  }
  /// Everything that has to wait for the previous kernel, or for the consumers.
  __device__ void rest() {
    int u = 0;
#pragma unroll 1
    for (int i = 0; i < ahead(); ++i) {
      x(i, u, i);
      if (++u == walk.units) u = 0;
    }
    int stage = 0;
    uint32_t parity = 0;
#pragma unroll 1
    for (int i = ahead(); i < walk.total; ++i) {
      u = unit;
      barrier_wait(shared.empty(stage), parity);
      weights(i, stage);
      x(i, u, stage);
      if (++stage == p.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }
};

}  // namespace tandem::kernels
