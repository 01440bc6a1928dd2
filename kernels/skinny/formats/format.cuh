// The formats in which weights are streamed: what 16 stored bytes are to a product.
//
// A format says how many elements 16 bytes hold (kElements), which type staged x has (X), and makes the words that a
// tensor-core product takes of them (unpack): word i multiplies word i of the kPieces 16-byte pieces of x with the same k. The
// 16 bytes are unpacked in kParts, so that no more than eight words of a weight row take registers.
// Every word is exact: codes are integers of up to 8 bits, or e4m3, as numbers of a 16-bit type, or bytes as they are.
#pragma once

#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/common/device.cuh"
#include "kernels/common/mma_ptx.cuh"
#include "kernels/skinny/formats/row_quantiser.h"
#include "kernels/skinny/formats/sparse_map.h"
#include "kernels/skinny/skinny_map.h"
#include "kernels/skinny/words.cuh"

namespace tandem::kernels {

/// Elements of T, multiplied as they are.
template <typename Element>
struct PlainFormat {
  using T = Element;                      // of activations, bias and y
  using X = Element;                      // of staged x
  using Stored = Element;                 // what pointers to weights count
  static constexpr int kStoredShift = 0;  // log2 of the elements of a Stored
  static constexpr int kElements = kVec<Element>;
  static constexpr int kPieces = 1;
  static constexpr bool kPlain = true;
  static constexpr bool kRowScales = false;
  static constexpr bool kGroupScales = false;
  static constexpr bool kQuantises = false;
  static constexpr bool kTwoOfFour = false;
  static constexpr bool kBitmap = false;
  static constexpr bool kHasHead = true;
};

/// a / 2 + b for two bf16. Not a sum, nor a product by 1, which the compiler makes a sum of: sums of two bf16 registers are a
/// suspect of what w8a16 first lost (kernels/LOG.md).
__device__ inline uint32_t half_plus_bf16x2(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(0x3f003f00u), "r"(b));
  return d;
}
/// (a & mask) | b and (a & mask) ^ b, each one instruction.
template <uint32_t kMask>
__device__ inline uint32_t and_or(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "n"(kMask), "r"(b));
  return d;
}
template <uint32_t kMask>
__device__ inline uint32_t and_xor(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(d) : "r"(a), "n"(kMask), "r"(b));
  return d;
}
// 0x4380 is 256 as bf16 and counts by twos up to 510.
/// Two bytes in bits 0..7 and 16..23 (int8) as bf16: half of 256 + 2 (c & 127), less 128, or 256 when c is negative.
__device__ inline uint32_t bf16x2_of_i8(uint32_t bytes) {
  return half_plus_bf16x2(and_or<0x007f007fu>(bytes, 0x43804380u), and_or<0x00800080u>(bytes, 0xc300c300u));
}
/// Two codes of 4 bits in bits 0..3 and 16..19 as bf16: half of 272 + 2 code, less 136.
__device__ inline uint32_t bf16x2_of_i4(uint32_t nibbles) {
  return half_plus_bf16x2(and_xor<0x000f000fu>(nibbles, 0x43884388u), 0xc308c308u);
}
__device__ inline uint32_t f16x2_of_f8(uint32_t two_codes) {
  const __half2_raw raw = __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(two_codes), __NV_E4M3);
  return raw.x | static_cast<uint32_t>(raw.y) << 16;
}

/// What the formats of codes share. x is bf16 in memory.
template <typename StagedX, int kCodesOf16Bytes>
struct CodeFormat {
  using T = __nv_bfloat16;
  using X = StagedX;
  using Stored = uint8_t;
  static constexpr int kElements = kCodesOf16Bytes;
  static constexpr int kStoredShift = kElements == 32 ? 1 : 0;
  static constexpr int kPieces = kElements / kVec<X>;
  static constexpr int kParts = kPieces > 2 ? 2 : 1;
  static constexpr bool kPlain = false;
  static constexpr bool kTwoOfFour = false;
  static constexpr bool kBitmap = false;
  static constexpr bool kHasHead = true;
};

/// w8a16: int8 codes as bf16.
struct W8A16Format : CodeFormat<__nv_bfloat16, 16> {
  using Acc = float;
  static constexpr bool kRowScales = true;
  static constexpr bool kGroupScales = false;
  static constexpr bool kQuantises = false;

  __device__ static void unpack(const uint32_t (&codes)[4], uint32_t (&words)[8]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      words[2 * i] = bf16x2_of_i8(__byte_perm(codes[i], 0, 0x4140));
      words[2 * i + 1] = bf16x2_of_i8(__byte_perm(codes[i], 0, 0x4342));
    }
  }
  __device__ static void multiply(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                  uint32_t b0, uint32_t b1) {
    mma_16816<T>(c, a0, a1, a2, a3, b0, b1);
  }
};

/// w4a16: int4 codes as bf16. A lane's 16 bytes lie in one scale group, and the four lanes of a row have just that group.
struct W4A16Format : CodeFormat<__nv_bfloat16, 32> {
  using Acc = float;
  static constexpr bool kHasHead = false;
  static constexpr bool kRowScales = false;
  static constexpr bool kGroupScales = true;
  static constexpr bool kQuantises = false;

  __device__ static void unpack(const uint32_t (&codes)[2], uint32_t (&words)[8]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      // Byte j of the codes beside itself shifted: the first code in the low half, the second in the high half.
      const uint32_t high = codes[i] >> 4;
      words[4 * i] = bf16x2_of_i4(__byte_perm(codes[i], high, 0x4400));
      words[4 * i + 1] = bf16x2_of_i4(__byte_perm(codes[i], high, 0x5511));
      words[4 * i + 2] = bf16x2_of_i4(__byte_perm(codes[i], high, 0x6622));
      words[4 * i + 3] = bf16x2_of_i4(__byte_perm(codes[i], high, 0x7733));
    }
  }
  __device__ static void multiply(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                  uint32_t b0, uint32_t b1) {
    mma_16816<T>(c, a0, a1, a2, a3, b0, b1);
  }
};

/// fp8: e4m3 codes of both operands as halves. sm_90 has no product of fp8 but the warpgroup's: mma.sync would unpack the same
/// way, and x again for every warp.
struct Fp8Format : CodeFormat<__half, 16> {
  using Acc = float;
  static constexpr bool kRowScales = true;
  static constexpr bool kGroupScales = false;
  static constexpr bool kQuantises = true;
  static constexpr float kLargest = 448.0f;

  __device__ static void unpack(const uint32_t (&codes)[4], uint32_t (&words)[8]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      words[2 * i] = f16x2_of_f8(codes[i] & 0xffffu);
      words[2 * i + 1] = f16x2_of_f8(codes[i] >> 16);
    }
  }
  __device__ static void multiply(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                  uint32_t b0, uint32_t b1) {
    mma_16816<__half>(c, a0, a1, a2, a3, b0, b1);
  }
  /// Four neighbours of a row as staged x.
  __device__ static void store_codes(X* to, const float4& v, const RowQuantiser& q) {
    const auto pair = [&](float low, float high) {
      const float2 both = make_float2(q.quotient(low), q.quotient(high));
      return f16x2_of_f8(__nv_cvt_float2_to_fp8x2(both, __NV_SATFINITE, __NV_E4M3)) & q.keep;
    };
    *reinterpret_cast<uint2*>(to) = make_uint2(pair(v.x, v.y), pair(v.z, v.w));
  }
};

/// int8: the codes of both operands as they are, 32-bit integer sums.
struct Int8Format : CodeFormat<int8_t, 16> {
  using Acc = int;
  static constexpr bool kRowScales = true;
  static constexpr bool kGroupScales = false;
  static constexpr bool kQuantises = true;
  static constexpr float kLargest = 127.0f;

  __device__ static void unpack(const uint32_t (&stored)[4], uint32_t (&words)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = stored[i];
  }
  __device__ static void multiply(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                  uint32_t b0, uint32_t b1) {
    mma_16832_s8(c, a0, a1, a2, a3, b0, b1);
  }
  __device__ static void store_codes(X* to, const float4& v, const RowQuantiser& q) {
    // Added to 1.5 * 2^23 a number is rounded to an integer, to nearest even, whose low byte is the sum's.
    const auto rounded = [&](float x) { return __float_as_uint(q.quotient(x) + 12582912.0f); };
    const uint32_t low = __byte_perm(rounded(v.x), rounded(v.y), 0x0040);
    const uint32_t high = __byte_perm(rounded(v.z), rounded(v.w), 0x0040);
    *reinterpret_cast<uint32_t*>(to) = __byte_perm(low, high, 0x5410) & q.keep;
  }
};

/// 2:4: eight of sixteen neighbours in 16 bytes, and 2 bytes of metadata (sparse_map.h).
struct TwoOfFourFormat : CodeFormat<__nv_bfloat16, 16> {
  using Acc = float;
  static constexpr bool kHasHead = false;
  static constexpr bool kRowScales = false;
  static constexpr bool kGroupScales = false;
  static constexpr bool kQuantises = false;
  static constexpr bool kTwoOfFour = true;
};

/// A bitmap and the kept values of each row. A lane's share of a unit is a word of a row's bitmap and what it has of values.
struct BitmapFormat {
  using T = __nv_bfloat16;
  using X = T;
  using Acc = float;
  using Stored = uint8_t;
  static constexpr int kStoredShift = 0;
  static constexpr int kElements = BitmapMap::kUnit / kWarp;  // of each of two rows
  static constexpr int kPieces = 1;                           // x lies in order
  static constexpr bool kPlain = false;
  static constexpr bool kRowScales = false;
  static constexpr bool kGroupScales = false;
  static constexpr bool kQuantises = false;
  static constexpr bool kTwoOfFour = false;
  static constexpr bool kBitmap = true;
  static constexpr bool kHasHead = false;
};

template <int kCount>
struct StoredWords {
  uint32_t words[kCount];
};
/// The stored words of part `part` (of Format::kParts).
template <class Format>
__device__ inline auto stored_part(const uint4& raw, int part) {
  if constexpr (Format::kParts == 1) {
    return StoredWords<4>{{raw.x, raw.y, raw.z, raw.w}};
  } else {
    return part == 0 ? StoredWords<2>{{raw.x, raw.y}} : StoredWords<2>{{raw.z, raw.w}};
  }
}

/// Where element `i` of a row of x lies in its staged row, when kLanes lanes share a unit of k.
template <class Format, int kLanes>
__device__ constexpr int staged_place(int i) {
  if constexpr (Format::kTwoOfFour) return TwoOfFourMap::place(i, kLanes);
  return staged_at(i, kLanes, Format::kPieces, kVec<typename Format::X>);
}
/// Eight 16-bit neighbours, from element `i` of the row on, to the staged row.
template <class Format, int kLanes>
__device__ inline void store_piece(typename Format::X* row, int i, const uint4& raw) {
  auto* to = row + staged_place<Format, kLanes>(i);
  if constexpr (Format::kTwoOfFour) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int w = 0; w < 4; ++w) *reinterpret_cast<uint32_t*>(to + TwoOfFourMap::word_step(w)) = words[w];
  } else {
    *reinterpret_cast<uint4*>(to) = raw;
  }
}

}  // namespace tandem::kernels
