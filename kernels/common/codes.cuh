// Codes of 8 bits on the device: made of values, and values made of them.
#pragma once

#include <cuda_fp8.h>

#include "kernels/common/codes.h"
#include "kernels/common/device.cuh"

namespace tandem::kernels {

/// Codes of two values, the first in the low byte.
template <DType Code>
__device__ inline uint32_t encode_2(const Divider& divide, float a, float b) {
  static_assert(Code == DType::kF8 || Code == DType::kI8);
  if (!divide.any()) return 0;
  if constexpr (Code == DType::kF8) {
    return __nv_cvt_float2_to_fp8x2(make_float2(copysignf(divide(a), a), copysignf(divide(b), b)),
                                    __NV_SATFINITE, __NV_E4M3);
  } else {
    // The sum with 1.5 * 2^23 is rounded to an integer, to nearest even, and has it in its low bits.
    // Only a subnormal scale is so coarse that a quotient passes 127.
    const auto code = [&](float v) {
      return __float_as_uint(fminf(fmaxf(divide(v), -127.0f), 127.0f) + 12582912.0f) & 0xffu;
    };
    return code(a) | code(b) << 8;
  }
}

/// Codes of eight values of one scale, the first in the lowest byte.
template <DType Code>
__device__ inline uint2 encode_8(const Divider& divide, const float (&v)[8]) {
  return make_uint2(encode_2<Code>(divide, v[0], v[1]) | encode_2<Code>(divide, v[2], v[3]) << 16,
                    encode_2<Code>(divide, v[4], v[5]) | encode_2<Code>(divide, v[6], v[7]) << 16);
}

/// codes[i .. i + V) of V values of one scale; V is 1, 4 or 8, and the place a multiple of V bytes.
template <DType Code, int V>
__device__ inline void store_codes(void* codes, int64_t i, const Divider& divide, const float (&v)[V]) {
  static_assert(V == 1 || V == 4 || V == 8);
  char* to = static_cast<char*>(codes) + i;
  if constexpr (V == 1) {
    *to = static_cast<char>(encode_2<Code>(divide, v[0], 0.0f));
  } else if constexpr (V == 4) {
    *reinterpret_cast<uint32_t*>(to) = encode_2<Code>(divide, v[0], v[1]) | encode_2<Code>(divide, v[2], v[3])
                                                                                << 16;
  } else {
    *reinterpret_cast<uint2*>(to) = encode_8<Code>(divide, v);
  }
}

/// The values of four codes.
template <DType Code>
__device__ inline void decode_4(uint32_t word, float (&v)[4]) {
  static_assert(Code == DType::kF8 || Code == DType::kI8);
  if constexpr (Code == DType::kF8) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto two = static_cast<__nv_fp8x2_storage_t>(word >> (16 * half));
      const float2 f = __half22float2(static_cast<__half2>(__nv_cvt_fp8x2_to_halfraw2(two, __NV_E4M3)));
      v[2 * half] = f.x;
      v[2 * half + 1] = f.y;
    }
  } else {
    // 2^23 + (code + 128) has the byte in its low bits.
    const uint32_t shifted = word ^ 0x80808080u;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[i] =
          __uint_as_float(__byte_perm(shifted, 0x4b000000u, 0x7540u + static_cast<unsigned>(i))) - 8388736.0f;
    }
  }
}

/// The same as halves, which hold every code exactly: two words of two neighbours.
template <DType Code>
__device__ inline uint2 decode_4_halves(uint32_t word) {
  static_assert(Code == DType::kF8 || Code == DType::kI8);
  if constexpr (Code == DType::kF8) {
    const auto halves = [](uint32_t two) {
      const __half2_raw h = __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(two), __NV_E4M3);
      return static_cast<uint32_t>(h.x) | static_cast<uint32_t>(h.y) << 16;
    };
    return make_uint2(halves(word & 0xffffu), halves(word >> 16));
  } else {
    // 1024 + (code + 128) has the byte in its low bits.
    const uint32_t shifted = word ^ 0x80808080u;
    const auto halves = [shifted](uint32_t selector) {
      const uint32_t raised = __byte_perm(shifted, 0x64646464u, selector);
      const __half2 h = __hsub2(reinterpret_cast<const __half2&>(raised), __float2half2_rn(1152.0f));
      return reinterpret_cast<const uint32_t&>(h);
    };
    return make_uint2(halves(0x4140u), halves(0x4342u));
  }
}

}  // namespace tandem::kernels
