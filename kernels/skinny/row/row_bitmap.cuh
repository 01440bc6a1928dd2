// The same for weights of a bitmap and the kept values: a stream of units through a ring in shared memory.
//
// Where a unit's values lie follows from the bits before it, so the words of the bitmap are asked for a ring's length before the
// values, and these a ring's length before they are multiplied; a unit that is done makes room for the next, across tiles. A
// word's values are then found by counting the bits below it (BitmapMap).
#pragma once

#include "kernels/common/device.cuh"
#include "kernels/common/memory_ptx.cuh"
#include "kernels/common/mma_ptx.cuh"
#include "kernels/skinny/args.h"
#include "kernels/skinny/formats/format.cuh"
#include "kernels/skinny/skinny_map.h"

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

/// What a warp works on in every tile.
struct RowPlace {
  int pair;         // of weight rows, in the tile
  UnitRange units;  // of k
};

/// A place in the order of a warp's units: all of a tile, then those of its next tile.
struct RowUnit {
  int tile;
  int unit;
  __device__ void advance(const RowPlace& at) {
    if (++unit < at.units.end) return;
    unit = at.units.begin;
    tile += static_cast<int>(gridDim.x);
  }
};

template <class Format>
requires(Format::kBitmap) struct RowCore<Format, 1> {
  static constexpr int kHalf = kWarp / 2;  // lanes of a weight row
  const __nv_bfloat16* x = nullptr;
  unsigned char* ring = nullptr;  // of the warp: BitmapSlot [kBitmapDepth]
  RowUnit words_next, values_next;
  int slot = 0;                          // of the unit that is multiplied next
  int row_words = 0;                     // of a row's bitmap
  const uint32_t* row_bitmap = nullptr;  // of the row of the next words
  int position = 0;                      // of the next values, from the row's first
  const unsigned char* row_values = nullptr;
  uint32_t selectors = 0;  // of the nibble that is this lane's number

  __device__ void take_x(const __nv_bfloat16* xs, int /*at*/, int /*left*/) { x = xs; }

  /// Asks for what the ring holds, from a tile on; the rest follows in multiply().
  __device__ void request(const SkinnyArgs& a, const RowPlace& at, int tile) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    extern __shared__ __align__(128) unsigned char shared[];
    ring = shared + a.plan.ring_offset + warp * kBitmapDepth * static_cast<int>(sizeof(BitmapSlot));
    row_words = ceil_div(a.plan.k, 32);
    selectors = BitmapMap::selectors(lane % 16);
    words_next = values_next = {tile, at.units.begin};
#pragma unroll 1
    for (int s = 0; s < kBitmapDepth; ++s) request_words(a, at, lane, slots()[s]);
    cp_async_commit();
    cp_async_wait<0>();
#pragma unroll 1
    for (int s = 0; s < kBitmapDepth; ++s) request_values(a, at, lane, slots()[s]);
  }

  __device__ void multiply(const SkinnyArgs& a, const RowPlace& at, float (&sum)[2]) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const uint32_t below = (1u << BitmapMap::shift(lane)) - 1;
    float c[2][4] = {};
#pragma unroll 1
    for (int unit = at.units.begin; unit < at.units.end; ++unit) {
      cp_async_wait<kBitmapDepth - 1>();
      __syncwarp();
      const BitmapSlot& now = slots()[slot];
      const __nv_bfloat16* unit_x = x + unit * BitmapMap::kUnit + BitmapMap::first_k(lane, 0);
#pragma unroll
      for (int chunk = 0; chunk < BitmapMap::kChunks; ++chunk) {
        BitmapMap::Four w[2];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const BitmapWord word = now.words[BitmapMap::word_lane(lane, j, chunk)];
          const uint32_t address = word.address + 2 * static_cast<uint32_t>(__popc(word.bits & below));
          const uint32_t from = address & ~3u;
          const uint32_t bits = word.bits >> BitmapMap::shift(lane);
          w[j] = BitmapMap::expand(load_shared_word(from), load_shared_word(from + 4),
                                   load_shared_word(from + 8), address, bits,
                                   __shfl_sync(0xffffffffu, selectors, static_cast<int>(bits)));
        }
        const uint2 xw = *reinterpret_cast<const uint2*>(unit_x + chunk * BitmapMap::kChunk);
        mma_16816<__nv_bfloat16>(c[chunk % 2], w[0].low, w[1].low, w[0].high, w[1].high, xw.x, xw.y);
      }
      __syncwarp();  // all are done with the slot
      request_values(a, at, lane, slots()[slot]);
      if (++slot == kBitmapDepth) slot = 0;
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) sum[j] += row_diagonal(c[0], lane, j) + row_diagonal(c[1], lane, j);
  }

 private:
  __device__ BitmapSlot* slots() const {
    return reinterpret_cast<BitmapSlot*>(ring);
  }
  /// The weight row of this half warp in a tile.
  __device__ static int row_of(const SkinnyArgs& a, const RowPlace& at, int tile, int lane) {
    return weight_row(a.plan, tile, row_of_pair(a.plan, at.pair, lane / kHalf));
  }

  /// The next words of the bitmap, into a slot whose words have been read. A lane reads only what it copied itself.
  __device__ void request_words(const SkinnyArgs& a, const RowPlace& at, int lane, BitmapSlot& to) {
    if (words_next.tile >= a.plan.tiles) return;
    if (words_next.unit == at.units.begin) {
      const int row = row_of(a, at, words_next.tile, lane);
      row_bitmap = a.bitmap + static_cast<int64_t>(row) * row_words;
      if (lane % kHalf == 0) cp_async_4(&to.start[lane / kHalf], a.row_starts + row);
    }
    const int word = words_next.unit * BitmapMap::kWordsOfRow + lane % kHalf;
    if (word < row_words) cp_async_4(&to.next[lane], row_bitmap + word);
    words_next.advance(at);
  }

  /// The next values, whose words have arrived in the same slot, and then words; one group of copies, which may be empty.
  __device__ void request_values(const SkinnyArgs& a, const RowPlace& at, int lane, BitmapSlot& s) {
    const int tile = values_next.tile;
    if (tile < a.plan.tiles) {
      const bool inside = values_next.unit * BitmapMap::kWordsOfRow + lane % kHalf < row_words;
      const uint32_t word = inside ? s.next[lane] : 0;
      if (values_next.unit == at.units.begin) {
        const uint32_t start =
            __shfl_sync(0xffffffffu, lane % kHalf == 0 ? s.start[lane / kHalf] : 0, 0, kHalf);
        row_values = static_cast<const unsigned char*>(a.w) + 16 * static_cast<int64_t>(start);
        position = at.units.begin > 0 ? count_before(a, at, row_of(a, at, tile, lane), lane) : 0;
      }
      const int own = __popc(word);
      int through = own;  // of the half warp's words up to this one
#pragma unroll
      for (int step = 1; step < kHalf; step <<= 1) {
        const int other = __shfl_up_sync(0xffffffffu, through, static_cast<unsigned>(step), kHalf);
        if (lane % kHalf >= step) through += other;
      }
      const int count = __shfl_sync(0xffffffffu, through, kHalf - 1, kHalf);
      const int skew = 2 * position % 16;
      unsigned char* to_values = s.values[lane / kHalf];
      s.words[lane] = {word, shared_address(to_values) + static_cast<uint32_t>(skew + 2 * (through - own))};
      const unsigned char* from = row_values + (2 * position - skew);
#pragma unroll 1
      for (int i = 16 * (lane % kHalf); i < skew + 2 * count; i += 16 * kHalf)
        cp_async_16(to_values + i, from + i, 16);
      position += count;
      values_next.advance(at);
    }
    request_words(a, at, lane, s);
    cp_async_commit();
  }

  /// Kept values of the half warp's row before the warp's units.
  __device__ int count_before(const SkinnyArgs& a, const RowPlace& at, int row, int lane) const {
    const uint32_t* words = a.bitmap + static_cast<int64_t>(row) * row_words;
    int count = 0;
#pragma unroll 4
    for (int i = lane % kHalf; i < at.units.begin * BitmapMap::kWordsOfRow; i += kHalf)
      count += __popc(__ldg(words + i));
#pragma unroll
    for (int bit = kHalf / 2; bit > 0; bit >>= 1) count += __shfl_xor_sync(0xffffffffu, count, bit);
    return count;
  }
};

}  // namespace tandem::kernels
