// Weights of a bitmap and the kept values as a stream of units through a warp's ring in shared memory.
//
// Where a unit's values lie follows from the bits before it, so the words of the bitmap are asked for a ring's length before the
// values, and these a ring's length before they are multiplied; a unit that is done makes room for the next, across tiles. A
// word's values are then found by counting the bits below it.
#pragma once

#include "kernels/common/device.cuh"
#include "kernels/common/memory_ptx.cuh"
#include "kernels/skinny/formats/sparse_map.h"
#include "kernels/skinny/skinny_map.h"

namespace tandem::kernels {

/// The matrix, and the part of it that a warp goes through: units of k in each of its tiles.
struct BitmapSource {
  const void* values;
  const uint32_t* bitmap;
  const uint32_t* row_starts;
  int row_words;  // of a row's bitmap
  int tiles;
  int stride;  // from one of the warp's tiles to the next
  UnitRange units;
};

/// A place in the order of a warp's units: all of a tile, then those of its next tile.
struct BitmapPlace {
  int tile;
  int unit;
  __device__ void advance(const BitmapSource& from) {
    if (++unit < from.units.end) return;
    unit = from.units.begin;
    tile += from.stride;
  }
};

/// Four elements of a word, zero where nothing is kept: those of the bits from `shift` on. `below`: the bits before them;
/// `selectors`: of the nibble that is this lane's number (BitmapMap).
__device__ inline BitmapMap::Four expand_bitmap(const BitmapWord& word, uint32_t below, int shift,
                                                uint32_t selectors) {
  const uint32_t address = word.address + 2 * static_cast<uint32_t>(__popc(word.bits & below));
  const uint32_t from = address & ~3u;
  const uint32_t bits = word.bits >> shift;
  return BitmapMap::expand(load_shared_word(from), load_shared_word(from + 4), load_shared_word(from + 8),
                           address, bits, __shfl_sync(0xffffffffu, selectors, static_cast<int>(bits)));
}

/// All methods by all lanes of a warp. `row_of`(tile, row): the weight row that is row `row` of the warp's kRows in a tile.
template <int kRows>
class BitmapStream {
 public:
  using Slot = BitmapSlot<kRows>;

  /// Asks for as many units as the ring holds, from the first one of `tile` on.
  template <class RowOf>
  __device__ void start(const BitmapSource& from, const RowOf& row_of, unsigned char* ring, int tile) {
    slots_ = reinterpret_cast<Slot*>(ring);
    words_next_ = values_next_ = {tile, from.units.begin};
#pragma unroll 1
    for (int s = 0; s < kBitmapDepth; ++s) request_words(from, row_of, slots_[s]);
    cp_async_commit();
    cp_async_wait<0>();
#pragma unroll 1
    for (int s = 0; s < kBitmapDepth; ++s) request_values(from, row_of, slots_[s]);
  }
  /// The unit that is next.
  __device__ const Slot& wait() const {
    cp_async_wait<kBitmapDepth - 1>();
    __syncwarp();
    return slots_[slot_];
  }
  /// Its slot is read: asks for the unit that takes its place.
  template <class RowOf>
  __device__ void release(const BitmapSource& from, const RowOf& row_of) {
    __syncwarp();
    request_values(from, row_of, slots_[slot_]);
    if (++slot_ == kBitmapDepth) slot_ = 0;
  }

 private:
  static constexpr int kLanes = kWarp / kRows;  // of a weight row
  Slot* slots_ = nullptr;
  BitmapPlace words_next_, values_next_;
  int slot_ = 0;                               // of the next unit
  const uint32_t* row_bitmap_ = nullptr;       // of this lane's row of the next words
  const unsigned char* row_values_ = nullptr;  // the next values of its row

  __device__ static int lane() {
    return static_cast<int>(threadIdx.x) % kWarp;
  }

  /// The next words of the bitmap, into a slot whose words have been read. A lane reads only what it copied itself.
  template <class RowOf>
  __device__ void request_words(const BitmapSource& from, const RowOf& row_of, Slot& to) {
    if (words_next_.tile >= from.tiles) return;
    if (words_next_.unit == from.units.begin) {
      const int row = row_of(words_next_.tile, lane() / kLanes);
      row_bitmap_ = from.bitmap + static_cast<int64_t>(row) * from.row_words;
      if (lane() % kLanes == 0) cp_async_4(&to.start[lane() / kLanes], from.row_starts + row);
    }
    const int word = words_next_.unit * Slot::kWordsOfRow + lane() % kLanes;
    if (word < from.row_words) cp_async_4(&to.next[lane()], row_bitmap_ + word);
    words_next_.advance(from);
  }

  /// The next values, whose words have arrived in the same slot, and then words; one group of copies, which may be empty.
  template <class RowOf>
  __device__ void request_values(const BitmapSource& from, const RowOf& row_of, Slot& s) {
    const int tile = values_next_.tile;
    const int column = lane() % kLanes;
    if (tile < from.tiles) {
      const bool inside = values_next_.unit * Slot::kWordsOfRow + column < from.row_words;
      const uint32_t word = inside ? s.next[lane()] : 0;
      if (values_next_.unit == from.units.begin) {
        const uint32_t start =
            __shfl_sync(0xffffffffu, column == 0 ? s.start[lane() / kLanes] : 0, 0, kLanes);
        row_values_ = static_cast<const unsigned char*>(from.values) + 16 * static_cast<int64_t>(start);
        if (from.units.begin > 0) row_values_ += 2 * count_before(from, row_of(tile, lane() / kLanes));
      }
      const int own = __popc(word);
      int through = own;  // of the row's words up to this one
#pragma unroll
      for (int step = 1; step < kLanes; step <<= 1) {
        const int other = __shfl_up_sync(0xffffffffu, through, static_cast<unsigned>(step), kLanes);
        if (column >= step) through += other;
      }
      const int count = __shfl_sync(0xffffffffu, through, kLanes - 1, kLanes);
      const int skew =
          static_cast<int>(reinterpret_cast<uintptr_t>(row_values_) % 16);  // values are on 16 bytes
      unsigned char* to = s.values[lane() / kLanes];
      s.words[lane()] = {word, shared_address(to) + static_cast<uint32_t>(skew + 2 * (through - own))};
      const unsigned char* bytes = row_values_ - skew;
#pragma unroll 1
      for (int i = 16 * column; i < skew + 2 * count; i += 16 * kLanes) cp_async_16(to + i, bytes + i, 16);
      row_values_ += 2 * count;
      values_next_.advance(from);
    }
    request_words(from, row_of, s);
    cp_async_commit();
  }

  /// Kept values of this lane's row before the warp's units.
  __device__ static int count_before(const BitmapSource& from, int row) {
    const uint32_t* words = from.bitmap + static_cast<int64_t>(row) * from.row_words;
    int count = 0;
#pragma unroll 4
    for (int i = lane() % kLanes; i < from.units.begin * Slot::kWordsOfRow; i += kLanes)
      count += __popc(__ldg(words + i));
#pragma unroll
    for (int bit = kLanes / 2; bit > 0; bit >>= 1) count += __shfl_xor_sync(0xffffffffu, count, bit);
    return count;
  }
};

}  // namespace tandem::kernels
