// Index arithmetic of weights of which only some are stored: which x a stored value meets. Shared by the kernels and by tests
// that walk it on the CPU.
#pragma once

#include <cstdint>

#include "harness/base/host_device.h"

namespace tandem::kernels {

/// Four of the eight bytes of `low` and `high` (0 to 3 and 4 to 7), by the four lowest nibbles of `selector`, each below 8. (The
/// intrinsic would mask them.)
TANDEM_HD inline uint32_t pick_bytes(uint32_t low, uint32_t high, uint32_t selector) {
#if defined(__CUDA_ARCH__)
  uint32_t picked;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(picked) : "r"(low), "r"(high), "r"(selector));
  return picked;
#else
  const uint64_t all = static_cast<uint64_t>(high) << 32 | low;
  uint32_t picked = 0;
  for (int i = 0; i < 4; ++i)
    picked |= static_cast<uint32_t>(all >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
  return picked;
#endif
}
/// The low word of high:low shifted right by `bits`, 0 to 32.
TANDEM_HD inline uint32_t shift_pair(uint32_t low, uint32_t high, uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __funnelshift_rc(low, high, bits);
#else
  return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) >> bits);
#endif
}
/// The same by the lowest five bits of `bits`.
TANDEM_HD inline uint32_t shift_pair_wrapped(uint32_t low, uint32_t high, uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __funnelshift_r(low, high, bits);
#else
  return shift_pair(low, high, bits & 31);
#endif
}
TANDEM_HD inline uint32_t rotate_left(uint32_t word, uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __funnelshift_l(word, word, bits);
#else
  bits &= 31;
  return bits == 0 ? word : word << bits | word >> (32 - bits);
#endif
}

/// 2:4 for mma.sp m16n8k32. Four lanes share 64 k of a row: each has 8 stored values (16 bytes, of 16 k), which are the operands of
/// two products, two pairs each. The product does not care about the order of k as long as x agrees: its pair of thread t is the
/// lane's own, so that words go into it as they are loaded.
struct TwoOfFourMap {
  static constexpr int kQuad = 64;  ///< k of four lanes
  static constexpr int kLane = 16;

  /// Where element `i` of a row of x lies in its staged row when `lanes` lanes share a unit: first every lane's 16 bytes of the
  /// first product, then those of the second.
  TANDEM_HD static constexpr int place(int i, int lanes) {
    const int unit = kLane * lanes;
    const int quad = i % unit / kQuad;
    const int owner = i % kQuad / kLane;  // the lane that has the weights of this k
    const int pair = i % kLane / 4;       // of its stored values
    const int lane = 4 * quad + 2 * (owner % 2) + i % 4 / 2;
    const int word = owner / 2 + 2 * (pair % 2);
    return i / unit * unit + (pair / 2 * lanes + lane) * 8 + 2 * word + i % 2;
  }
  /// Of eight neighbours from a multiple of eight on: how far the four words (two elements each) lie after the first one's.
  TANDEM_HD static constexpr int word_step(int word) { return (word & 1) * 8 + (word >> 1) * 4; }

  // A lane's metadata of two rows, 16 bits each, are eight nibbles, one a pair of values. Thread t of the quad has to give the
  // products every lane's pair t: threads 0 and 1 for the first, 2 and 3 for the second. Two exchanges transpose them.

  /// Of the lane's word and that of the lane with thread t ^ 1.
  TANDEM_HD static uint32_t exchange_nibbles(uint32_t own, uint32_t other, int t) {
    const bool odd = (t & 1) != 0;
    const uint32_t keep = odd ? 0xf0f0f0f0u : 0x0f0f0f0fu;
    return (own & keep) | (rotate_left(other, odd ? 28 : 4) & ~keep);
  }
  /// Of the lane's word after that and that of the lane with thread t ^ 2.
  TANDEM_HD static uint32_t exchange_bytes(uint32_t own, uint32_t other, int t) {
    return pick_bytes(own, other, t < 2 ? 0x6240u : 0x3715u);
  }
  /// Of a lane past the end of a row: the products must not see two equal indices.
  static constexpr uint16_t kNothing = 0x4444;
};

/// A bitmap and the kept values of two rows, 512 k at a time: sixteen words of each row, one a lane. They are expanded 128 k of a
/// row at a time, four neighbours a lane, so that the lanes read neighbouring values.
struct BitmapMap {
  static constexpr int kRows = 2;
  static constexpr int kUnit = 512;
  static constexpr int kChunk = 128;  ///< k that a warp expands at once
  static constexpr int kChunks = kUnit / kChunk;
  static constexpr int kWordsOfRow = kUnit / 32;

  /// The lane that has the word with this lane's four elements of chunk `chunk` of row `row` (0, 1).
  TANDEM_HD static constexpr int word_lane(int lane, int row, int chunk) {
    return row * kWordsOfRow + chunk * (kChunk / 32) + lane / 8;
  }
  TANDEM_HD static constexpr int shift(int lane) { return 4 * (lane % 8); }  ///< of those four bits in it
  /// k of the first of them, in the unit.
  TANDEM_HD static constexpr int first_k(int lane, int chunk) { return chunk * kChunk + 4 * lane; }

  /// Which bytes make two elements of the next kept values, by their two bits: those of the values (0 to 3), or zero's (4).
  TANDEM_HD static constexpr uint32_t pair_selector(int bits) {
    return (bits & 1 ? 0x10u : 0x44u) | (bits & 2 ? (bits & 1 ? 0x3200u : 0x1000u) : 0x4400u);
  }
  /// Of four elements: the first two's in the lower half, the others' in the upper.
  TANDEM_HD static constexpr uint32_t selectors(int nibble) {
    return pair_selector(nibble & 3) | pair_selector(nibble >> 2 & 3) << 16;
  }

  /// 16 for each kept value of two elements, by their two bits, a byte each.
  static constexpr uint32_t kTaken = 0x20101000;

  struct Four {
    uint32_t low, high;  ///< elements 0, 1 and 2, 3; zero where nothing is kept
  };
  /// Four elements from the three words that hold their kept values, the first one in the lower half of `w0`, or in its
  /// upper one if bit 1 of `address`, the value's place in bytes, is set. `bits`: theirs are the lowest four; `taken`:
  /// kTaken.
  TANDEM_HD static Four expand(uint32_t w0, uint32_t w1, uint32_t w2, uint32_t address, uint32_t bits,
                               uint32_t selectors, uint32_t taken) {
    const uint32_t odd = address << 3;  // 16 more than a multiple of 32, or a multiple
    const uint32_t first = shift_pair_wrapped(w0, w1, odd);
    const uint32_t second = shift_pair_wrapped(w1, w2, odd);
    const uint32_t past =
        pick_bytes(taken, 0, bits & 3);  // bits of the first two's values; the other bytes are 0
    return {pick_bytes(first, 0, selectors), pick_bytes(shift_pair(first, second, past), 0, selectors >> 16)};
  }
};

/// A word of a bitmap, and where in shared memory its first value lies.
struct alignas(8) BitmapWord {
  uint32_t bits;
  uint32_t address;
};
/// 32 words of kRows weight rows, 32 / kRows of each, with their values, in shared memory. Values begin up to 14 bytes before the
/// first one.
template <int kRows>
struct BitmapSlot {
  static constexpr int kWordsOfRow = 32 / kRows;
  static constexpr int kUnit = 32 * kWordsOfRow;  ///< k
  alignas(16) unsigned char values[kRows][2 * kUnit + 16];
  BitmapWord words[32];
  uint32_t next[32];                      ///< words of the unit that the slot gets next
  uint32_t start[kRows < 4 ? 4 : kRows];  ///< where its rows' values start, at their first unit
};
/// Units of a warp under way: 4 KiB of values at a half, from 16 warps 37 KiB at a fifth.
inline constexpr int kBitmapDepth = 4;

/// Bytes of a warp's ring.
template <int kRows>
inline constexpr int kBitmapRing = kBitmapDepth* static_cast<int>(sizeof(BitmapSlot<kRows>));

}  // namespace tandem::kernels
