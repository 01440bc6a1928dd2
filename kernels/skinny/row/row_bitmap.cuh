// The kernel of one row for weights of a bitmap and the kept values: a stream through a ring in shared memory.
#pragma once

#include "kernels/common/mma_ptx.cuh"
#include "kernels/skinny/args.h"
#include "kernels/skinny/formats/bitmap_stream.cuh"
#include "kernels/skinny/formats/format.cuh"

namespace tandem::kernels {

/// What a warp holds of the weights and how it multiplies it (row_kernel.cuh).
template <class Format, int kSets>
struct RowCore;

/// The sum of the lane's group of weight row `j` (0, 1) of a pair, in one of its lanes (DiagonalMap); 0 in the others.
template <typename Acc>
__device__ inline float row_diagonal(const Acc (&c)[4], int lane, int j) {
  const Acc own = DiagonalMap::index(lane) != 0 ? c[2 * j + 1] : c[2 * j];
  return DiagonalMap::holds(lane) ? static_cast<float>(own) : 0.0f;
}

template <class Format>
requires(Format::kBitmap) struct RowCore<Format, 1> {
  static constexpr int kRows = BitmapMap::kRows;
  const __nv_bfloat16* x = nullptr;
  BitmapSource source;
  BitmapStream<kRows> stream;
  BitmapTables tables;

  __device__ void take_x(const __nv_bfloat16* xs, int /*at*/, int /*left*/) { x = xs; }

  /// Asks for what the ring holds, from a tile on; the rest follows in multiply(). `pair`: of weight rows, in each tile.
  __device__ void request(const SkinnyArgs& a, const UnitRange& units, int pair, int tile) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    extern __shared__ __align__(128) unsigned char shared[];
    source = {.values = a.w,
              .bitmap = a.bitmap,
              .row_starts = a.row_starts,
              .row_words = ceil_div(a.plan.k, 32),
              .tiles = a.plan.tiles,
              .stride = static_cast<int>(gridDim.x),
              .units = units};
    tables.load();
    stream.start(source, rows_of(a, pair), shared + a.plan.ring_offset + warp * kBitmapRing<kRows>, tile);
  }

  __device__ void multiply(const SkinnyArgs& a, int pair, float (&sum)[2]) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const uint32_t below = (1u << BitmapMap::shift(lane)) - 1;
    float c[2][4] = {};
#pragma unroll 1
    for (int unit = source.units.begin; unit < source.units.end; ++unit) {
      const auto& now = stream.wait();
      const __nv_bfloat16* unit_x = x + unit * BitmapMap::kUnit + BitmapMap::first_k(lane, 0);
#pragma unroll
      for (int chunk = 0; chunk < BitmapMap::kChunks; ++chunk) {
        BitmapMap::Four w[kRows];
#pragma unroll
        for (int j = 0; j < kRows; ++j) {
          const BitmapWord word = now.words[BitmapMap::word_lane(lane, j, chunk)];
          w[j] = expand_bitmap(word, below, BitmapMap::shift(lane), tables);
        }
        const uint2 xw = *reinterpret_cast<const uint2*>(unit_x + chunk * BitmapMap::kChunk);
        mma_16816<__nv_bfloat16>(c[chunk % 2], w[0].low, w[1].low, w[0].high, w[1].high, xw.x, xw.y);
      }
      stream.release(source, rows_of(a, pair));
    }
#pragma unroll
    for (int j = 0; j < kRows; ++j) sum[j] += row_diagonal(c[0], lane, j) + row_diagonal(c[1], lane, j);
  }

 private:
  __device__ static auto rows_of(const SkinnyArgs& a, int pair) {
    return [&p = a.plan, pair](int tile, int j) { return weight_row(p, tile, row_of_pair(p, pair, j)); };
  }
};

}  // namespace tandem::kernels
