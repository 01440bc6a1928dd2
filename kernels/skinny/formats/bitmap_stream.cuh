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

/// What every expansion looks up, in registers.
struct BitmapTables {
  uint32_t selectors;  // of the nibble that is this lane's number (BitmapMap)
  uint32_t taken;

  __device__ void load() {
    selectors = BitmapMap::selectors(static_cast<int>(threadIdx.x) % 16);
    asm volatile("mov.b32 %0, %1;"
                 : "=r"(taken)
                 : "n"(BitmapMap::kTaken));  // or it is moved there for each use
  }
};
/// Four elements of a word, zero where nothing is kept: those of the bits from `shift` on. `below`: the bits before them.
__device__ inline BitmapMap::Four expand_bitmap(const BitmapWord& word, uint32_t below, int shift,
                                                const BitmapTables& tables) {
  const uint32_t address = word.address + 2 * static_cast<uint32_t>(__popc(word.bits & below));
  const uint32_t from = address & ~3u;
  const uint32_t bits = word.bits >> shift;
  const uint32_t selectors = __shfl_sync(0xffffffffu, tables.selectors, static_cast<int>(bits));
  return BitmapMap::expand(load_shared_word(from), load_shared_word(from + 4), load_shared_word(from + 8),
                           address, bits, selectors, tables.taken);
}

/// Sums over the lanes up to each one, within groups of kLanes.
template <int kLanes>
__device__ inline int sum_through(int own) {
  int sum = own;
#pragma unroll
  for (int step = 1; step < kLanes; step <<= 1) {
    // Only lanes that have one so far below add: the shuffle says which.
    asm volatile(
        "{.reg .pred p; .reg .s32 other; shfl.sync.up.b32 other|p, %0, %1, %2, 0xffffffff; @p add.s32 %0, "
        "%0, other;}"
        : "+r"(sum)
        : "r"(step), "n"((kWarp - kLanes) << 8));
  }
  return sum;
}

/// All methods by all lanes of a warp. `row_of`(tile, row): the weight row that is row `row` of the warp's kRows in a tile.
template <int kRows>
class BitmapStream {
 public:
  using Slot = BitmapSlot<kRows>;

  /// Asks for as many units as the ring holds, from the first one of `tile` on.
  template <class RowOf>
  __device__ void start(const BitmapSource& from, const RowOf& row_of, unsigned char* ring, int tile) {
    first_ = slot_ = reinterpret_cast<Slot*>(ring);
    const int units = from.units.end - from.units.begin;
    words_left_ = values_left_ = ceil_div(from.tiles - tile, from.stride) * units;
    words_tile_ = values_tile_ = tile;
    words_unit_ = values_unit_ = from.units.begin;
#pragma unroll 1
    for (int s = 0; s < kBitmapDepth; ++s) request_words(from, row_of, first_[s]);
    cp_async_commit();
    cp_async_wait<0>();
#pragma unroll 1
    for (int s = 0; s < kBitmapDepth; ++s) request_values(from, row_of, first_[s]);
  }
  /// The unit that is next.
  __device__ const Slot& wait() const {
    cp_async_wait<kBitmapDepth - 1>();
    __syncwarp();
    return *slot_;
  }
  /// Its slot is read: asks for the unit that takes its place.
  template <class RowOf>
  __device__ void release(const BitmapSource& from, const RowOf& row_of) {
    __syncwarp();
    request_values(from, row_of, *slot_);
    if (++slot_ == first_ + kBitmapDepth) slot_ = first_;
  }

 private:
  static constexpr int kLanes = kWarp / kRows;  // of a weight row
  static constexpr int kStep = 16 * kLanes;     // bytes of a row that its lanes copy at once
  Slot* first_ = nullptr;
  Slot* slot_ = nullptr;          // of the next unit
  int words_left_, values_left_;  // units that are to be asked for
  int words_tile_, values_tile_;  // of the next ones
  int words_unit_, values_unit_;
  const uint32_t* next_word_ = nullptr;         // of this lane
  const unsigned char* next_values_ = nullptr;  // of its row

  __device__ static int lane() {
    return static_cast<int>(threadIdx.x) % kWarp;
  }
  __device__ static int column() {
    return lane() % kLanes;
  }

  /// The next words of the bitmap, into a slot whose words have been read. A lane reads only what it copied itself.
  template <class RowOf>
  __device__ void request_words(const BitmapSource& from, const RowOf& row_of, Slot& to) {
    if (words_left_ == 0) return;
    --words_left_;
    if (words_unit_ == from.units.begin) {
      const int row = row_of(words_tile_, lane() / kLanes);
      next_word_ = from.bitmap + static_cast<int64_t>(row) * from.row_words + words_unit_ * kLanes + column();
      if (column() == 0) cp_async_4(&to.start[lane() / kLanes], from.row_starts + row);
    }
    if (words_unit_ * kLanes + column() < from.row_words) cp_async_4(&to.next[lane()], next_word_);
    next_word_ += kLanes;
    advance(from, words_unit_, words_tile_);
  }

  /// The next values, whose words have arrived in the same slot, and then words; one group of copies, which may be empty.
  template <class RowOf>
  __device__ void request_values(const BitmapSource& from, const RowOf& row_of, Slot& s) {
    if (values_left_ > 0) {
      --values_left_;
      const uint32_t word = values_unit_ * kLanes + column() < from.row_words ? s.next[lane()] : 0;
      if (values_unit_ == from.units.begin) {
        const uint32_t start =
            __shfl_sync(0xffffffffu, column() == 0 ? s.start[lane() / kLanes] : 0, 0, kLanes);
        next_values_ = static_cast<const unsigned char*>(from.values) + 16 * static_cast<int64_t>(start);
        if (values_unit_ > 0) next_values_ += 2 * count_before(from, row_of(values_tile_, lane() / kLanes));
      }
      const int own = __popc(word);
      const int through = sum_through<kLanes>(own);
      const int bytes = 2 * __shfl_sync(0xffffffffu, through, kLanes - 1, kLanes);
      const int skew =
          static_cast<int>(reinterpret_cast<uintptr_t>(next_values_) % 16);  // values are on 16 bytes
      const uint32_t to = shared_address(s.values[lane() / kLanes]);
      s.words[lane()] = {word, to + static_cast<uint32_t>(skew + 2 * (through - own))};
      // The lane's pieces: three are enough for most rows.
      const unsigned char* piece = next_values_ - skew + 16 * column();
      const int end = skew + bytes - 16 * column();
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        if (i * kStep < end) cp_async_16(to + 16 * column() + i * kStep, piece + i * kStep, 16);
      }
      if (__any_sync(0xffffffffu, 3 * kStep < end)) {
#pragma unroll 1
        for (int i = 3 * kStep; i < end; i += kStep) cp_async_16(to + 16 * column() + i, piece + i, 16);
      }
      next_values_ += bytes;
      advance(from, values_unit_, values_tile_);
    }
    request_words(from, row_of, s);
    cp_async_commit();
  }

  __device__ static void advance(const BitmapSource& from, int& unit, int& tile) {
    if (++unit < from.units.end) return;
    unit = from.units.begin;
    tile += from.stride;
  }

  /// Kept values of this lane's row before the warp's units.
  __device__ static int count_before(const BitmapSource& from, int row) {
    const uint32_t* words = from.bitmap + static_cast<int64_t>(row) * from.row_words;
    int count = 0;
#pragma unroll 4
    for (int i = column(); i < from.units.begin * kLanes; i += kLanes) count += __popc(__ldg(words + i));
#pragma unroll
    for (int bit = kLanes / 2; bit > 0; bit >>= 1) count += __shfl_xor_sync(0xffffffffu, count, bit);
    return count;
  }
};

}  // namespace tandem::kernels
