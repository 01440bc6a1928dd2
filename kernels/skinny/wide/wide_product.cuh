// A warpgroup's sums over its block's slice of k: products out of the ring of stages.
#pragma once

#include "kernels/skinny/wide/wide_finish.cuh"
#include "kernels/skinny/wide/wide_stream.cuh"
#include "kernels/skinny/wide/wide_unpack.cuh"

namespace tandem::kernels {

/// Where a consumer stands in the ring.
struct WideCursor {
  int stage = 0;
  uint32_t parity = 0;
  int busy = -1;  // the stage that the running products read

  __device__ void release(const WideShared& shared, int lane) const {
    if (busy >= 0 && lane == 0) barrier_arrive(shared.empty(busy));
  }
  __device__ void advance(const WidePlan& p) {
    busy = stage;
    if (++stage == p.stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

/// Shared address of the x of the cursor's stage; kBytes: of its unit.
template <int kBytes>
__device__ inline uint32_t wide_x(const WidePlan& p, const WideShared& shared, const WideCursor& at,
                                  int unit) {
  return shared.base +
         (p.resident ? p.x_offset + unit * kBytes : at.stage * p.stage_bytes + p.weight_bytes());
}

/// Weights and x as they lie in shared memory. c: zeros, or with fresh sums what is added to.
template <class Format, int kBatch>
__device__ inline void wide_multiply(const WidePlan& p, const WideShared& shared, int units,
                                     uint32_t group_weights, int lane, WideCursor& at,
                                     typename Format::Acc (&c)[kBatch / 8][4]) {
  using Element = typename Format::Element;
  float sums[Format::kFreshSums ? kBatch / 8 : 1][4] = {};
#pragma unroll 1
  for (int unit = 0; unit < units; ++unit) {
    const uint32_t weights = group_weights + at.stage * p.stage_bytes;
    const uint32_t x = wide_x<kBatch * kWideRowBytes * Format::kXBoxes>(p, shared, at, unit);
    barrier_wait(shared.full(at.stage), at.parity);
    if constexpr (Format::kFreshSums) {
      wgmma_begin();
#pragma unroll
      for (int step = 0; step < kWideSteps; ++step) {
        wgmma_shared<Element>(sums, tile_descriptor(weights + 32 * step, 0),
                              tile_descriptor(x + 32 * step, 0), step > 0);
      }
      wgmma_commit();
      wgmma_wait<0>();
      hold(sums);
      at.advance(p);
      at.release(shared, lane);
#pragma unroll
      for (int j = 0; j < kBatch / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) c[j][e] += sums[j][e];
      }
    } else {
      wgmma_begin();
#pragma unroll
      for (int step = 0; step < kWideSteps; ++step) {
        wgmma_shared<Element>(c, tile_descriptor(weights + 32 * step, 0), tile_descriptor(x + 32 * step, 0),
                              true);
      }
      wgmma_commit();
      wgmma_wait<1>();
      at.release(shared, lane);
      at.advance(p);
    }
  }
  if constexpr (!Format::kFreshSums) {
    wgmma_wait<0>();
    hold(c);
    at.release(shared, lane);
  }
  at.busy = -1;
}

/// Weights through registers: the codes of one box of x are unpacked while the products of the box before run.
/// `warp_weights`: shared address of the warp's rows in the first stage. `scales`: of groups, those of the tile's first units
/// requested; leaves those of the next tile's requested.
template <class Format, int kBatch>
__device__ inline void wide_multiply_unpacked(const WideArgs& args, const WideShared& shared,
                                              const WideWalk& walk, int tile, uint32_t warp_weights, int warp,
                                              int lane, WideCursor& at, WideScales& scales,
                                              float (&c)[kBatch / 8][4]) {
  const WidePlan& p = args.plan;
  uint32_t a[2][kWideSteps][4] = {};
  float sums[Format::kGroupScales ? kBatch / 8 : 1][4] = {};  // of a group
  float scale[2] = {0.0f, 0.0f};                              // of that group, of both rows
  const auto fold = [&] {
    if constexpr (Format::kGroupScales) {
      wgmma_wait<0>();
      hold(sums);
#pragma unroll
      for (int j = 0; j < kBatch / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) c[j][e] = fmaf(sums[j][e], scale[e / 2], c[j][e]);
      }
    }
  };
#pragma unroll 1
  for (int unit = 0; unit < walk.units; ++unit) {
    uint32_t pair[2];  // both groups' scales
    if constexpr (Format::kGroupScales) {
      if (unit % kWideScaleUnits == 0) {
        scales.turn();
        const bool last = unit + kWideScaleUnits >= walk.units;
        scales.request(args, last ? tile + walk.stride : tile, walk.first_unit,
                       last ? 0 : unit + kWideScaleUnits, warp, lane);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) pair[half] = scales.of_unit(unit, half, lane);
    }
    const uint32_t weights = warp_weights + at.stage * p.stage_bytes;
    const uint32_t x = wide_x<kBatch * kWideRowBytes * Format::kXBoxes>(p, shared, at, unit);
    barrier_wait(shared.full(at.stage), at.parity);
#pragma unroll
    for (int box = 0; box < Format::kXBoxes; ++box) {
      uint32_t(&mine)[kWideSteps][4] = a[box % 2];
      wgmma_wait<1>();  // the products before the last ones are done with these registers
      hold(mine);
      if (box == 1) at.release(shared, lane);  // the stage before
      wide_unpack<Format>(weights, box, lane, mine);
      hold(mine);  // unpacked now, and not after the wait of a fold
      const bool first_of_group = Format::kGroupScales && box % 2 == 0;
      if (first_of_group) {
        fold();
        if constexpr (Format::kGroupScales) {
#pragma unroll
          for (int half = 0; half < 2; ++half)
            scale[half] = __uint_as_float(box == 0 ? pair[half] << 16 : pair[half] & 0xffff0000u);
        }
      }
      wgmma_begin();
#pragma unroll
      for (int step = 0; step < kWideSteps; ++step) {
        const uint64_t of_x = tile_descriptor(x + box * kBatch * kWideRowBytes + 32 * step, 0);
        if constexpr (Format::kGroupScales) {
          wgmma_from_registers(sums, mine[step], of_x, !first_of_group || step > 0);
        } else {
          wgmma_from_registers(c, mine[step], of_x, true);
        }
      }
      wgmma_commit();
    }
    at.advance(p);
  }
  if constexpr (Format::kGroupScales) {
    fold();
  } else {
    wgmma_wait<0>();
    hold(c);
  }
  hold(a[0]);
  hold(a[1]);
  at.release(shared, lane);
  at.busy = -1;
}

}  // namespace tandem::kernels
