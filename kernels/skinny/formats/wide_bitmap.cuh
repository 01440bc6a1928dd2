// A bitmap's weights in the wide kernel: kept values through a ring of each warp's own, expanded into the registers from which they
// are multiplied; x sorted so that a lane's operand is four neighbours of k.
#pragma once

#include "kernels/common/hopper_ptx.cuh"
#include "kernels/skinny/formats/bitmap_stream.cuh"
#include "kernels/skinny/wide/wide_args.h"
#include "kernels/skinny/wide/wide_product.cuh"

namespace tandem::kernels {

/// The producer warp, all lanes: x of every stage requested, sorted once it is there (wide_sorted_pair), and handed on.
template <class Format>
__device__ inline void wide_sort_stages(WideProducer<Format>& producer, const WideShared& shared,
                                        const WideWalk& walk, int lane) {
  const WidePlan& p = producer.p;
  const int ahead = producer.ahead();
  if (lane == 0) {
    int u = 0;
#pragma unroll 1
    for (int i = 0; i < ahead; ++i) {
      producer.x(i, u, i);
      if (++u == walk.units) u = 0;
    }
  }
  // A stage is asked for again once the ones after it are sorted, so that nobody waits for the consumers in between.
  const int lag = min(2, ahead - 1);
  int stage = 0, again = 0;
  uint32_t parity = 0, again_parity = 0;
#pragma unroll 1
  for (int i = 0; i < walk.total; ++i) {
    barrier_wait(shared.full(stage), parity);
    const uint32_t x = shared.base + stage * p.stage_bytes;
#pragma unroll 1
    for (int j = lane; j < 4 * p.batch; j += kWarp) {
      const uint32_t first = x + wide_swizzled(j / 4, 32 * (j % 4));
      const uint32_t second = x + wide_swizzled(j / 4, 32 * (j % 4) + 16);
      const uint4 low = load_shared_words(first);
      const uint4 high = load_shared_words(second);
      store_shared_words(first, make_uint4(low.x, low.z, high.x, high.z));
      store_shared_words(second, make_uint4(low.y, low.w, high.y, high.w));
    }
    fence_async_proxy();
    __syncwarp();
    if (lane == 0) barrier_arrive(shared.sorted(stage));
    if (++stage == p.stages) {
      stage = 0;
      parity ^= 1;
    }
    const int next = ahead + i - lag;
    if (i >= lag && next < walk.total) {
      if (lane == 0) {
        const int u = producer.unit;
        barrier_wait(shared.empty(again), again_parity);
        producer.weights(next, again);
        producer.x(next, u, again);
      }
      __syncwarp();
      if (++again == p.stages) {
        again = 0;
        again_parity ^= 1;
      }
    }
  }
}

/// A warp's 16 weight rows.
struct WideBitmapRows {
  static constexpr int kRows = kWideGroupRows / 4;
  BitmapSource source;
  BitmapStream<kRows> stream;
  BitmapTables tables;

  __device__ auto rows_of(const WidePlan& p, int warp) const {
    const int last = p.planes() * p.n - 1;  // past it: any row, nobody reads its sums
    return [&p, warp, last](int tile, int row) {
      return min(wide_weight_row(p, tile, kRows * warp + row), last);
    };
  }
  __device__ void start(const WideArgs& a, const WideWalk& walk, unsigned char* memory, int warp) {
    const WidePlan& p = a.plan;
    source = {.values = a.w,
              .bitmap = a.bitmap,
              .row_starts = a.row_starts,
              .row_words = ceil_div(p.k, 32),
              .tiles = p.tiles,
              .stride = walk.stride,
              .units = {walk.first_unit, walk.first_unit + walk.units}};
    tables.load();
    stream.start(source, rows_of(p, warp), memory + p.own_offset + warp * kBitmapRing<kRows>,
                 walk.first_tile);
  }
};

/// c: zeros.
template <int kBatch>
__device__ inline void wide_multiply_bitmap(const WideArgs& args, const WideShared& shared,
                                            const WideWalk& walk, int warp, int lane, WideCursor& at,
                                            WideBitmapRows& rows, float (&c)[kBatch / 8][4]) {
  const WidePlan& p = args.plan;
  const int shift = 4 * (lane & 3);
  uint32_t w[kWideSteps][4] = {};
#pragma unroll 1
  for (int unit = 0; unit < walk.units; ++unit) {
    const auto& slot = rows.stream.wait();
    wgmma_wait<0>();  // of the unit before: its registers are free
    hold(w);
    at.release(shared, lane);
#pragma unroll
    for (int step = 0; step < kWideSteps; ++step) {
      const int first = 16 * (step % 2) + shift;  // bit in the word
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const BitmapWord word = slot.words[2 * ((lane >> 2) + 8 * half) + step / 2];
        const auto four = expand_bitmap(word, (1u << first) - 1, first, rows.tables);
        w[step][half] = four.low;
        w[step][2 + half] = four.high;
      }
    }
    hold(w);
    rows.stream.release(rows.source, rows.rows_of(p, warp));
    barrier_wait(shared.sorted(at.stage), at.parity);
    const uint32_t x = shared.base + at.stage * p.stage_bytes;
    wgmma_begin();
#pragma unroll
    for (int step = 0; step < kWideSteps; ++step)
      wgmma_from_registers(c, w[step], tile_descriptor(x + 32 * step, 0), true);
    wgmma_commit();
    at.advance(p);
  }
  wgmma_wait<0>();
  hold(c);
  hold(w);
  at.release(shared, lane);
  at.busy = -1;
}

}  // namespace tandem::kernels
