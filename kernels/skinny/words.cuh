// Words of 16-bit elements as floats, and back, by intrinsics. pack2 and unpack2 of kernels/common/mma_ptx.cuh, whose
// conversion is written as PTX, are not proven to give these kernels the same code.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace tandem::kernels {

/// Two neighbouring 16-bit elements as floats. Words and not elements: a 16-byte load whose elements are picked through a
/// pointer is split into 2-byte loads by the compiler.
template <typename T>
__device__ inline float2 unpack_pair(uint32_t word);
template <>
__device__ inline float2 unpack_pair<__nv_bfloat16>(uint32_t word) {
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}
template <>
__device__ inline float2 unpack_pair<__half>(uint32_t word) {
  const __half2_raw raw{static_cast<unsigned short>(word & 0xffffu), static_cast<unsigned short>(word >> 16)};
  return __half22float2(__half2(raw));
}
template <typename T>
__device__ inline uint32_t pack_pair(float low, float high);
template <>
__device__ inline uint32_t pack_pair<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162_raw raw = __floats2bfloat162_rn(low, high);
  return raw.x | static_cast<uint32_t>(raw.y) << 16;
}
template <>
__device__ inline uint32_t pack_pair<__half>(float low, float high) {
  const __half2_raw raw = __floats2half2_rn(low, high);
  return raw.x | static_cast<uint32_t>(raw.y) << 16;
}
/// 16 bytes as floats.
template <typename T>
__device__ inline void unpack_words(const uint4& raw, float (&out)[16 / sizeof(T)]) {
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      out[i] = __uint_as_float(words[i]);
    } else {
      const float2 pair = unpack_pair<T>(words[i]);
      out[2 * i] = pair.x;
      out[2 * i + 1] = pair.y;
    }
  }
}

}  // namespace tandem::kernels
