// Codes of 8 bits on the device: made of values, and values made of them.
#pragma once

#include <cuda_fp8.h>

#include "kernels/common/codes.h"
#include "kernels/common/device.cuh"
#include "kernels/common/mma_ptx.cuh"

namespace tandem::kernels {

/// A float of this and a small integer holds the integer in its low bits, rounded to nearest even.
inline constexpr float kIntegerMagic = 12582912.0f;  // 1.5 * 2^23

/// Codes of V values of one scale, the first in the lowest byte.
template <DType Code>
__device__ inline uint32_t encode_2(const Divider& divide, float a, float b) {
  static_assert(Code == DType::kF8 || Code == DType::kI8);
  if (!divide.any()) return 0;
  if constexpr (Code == DType::kF8) {
    return __nv_cvt_float2_to_fp8x2(make_float2(divide(a), divide(b)), __NV_SATFINITE, __NV_E4M3);
  } else {
    return __byte_perm(__float_as_uint(divide(a) + kIntegerMagic), __float_as_uint(divide(b) + kIntegerMagic),
                       0x7740) &
           0xffffu;
  }
}
