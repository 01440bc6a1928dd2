// Device helpers every kernel family shares: conversions, 16-byte access, warp reductions, programmatic dependent launch.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace tandem::kernels {

inline constexpr int kWarp = 32;

__device__ inline float to_float(float v) {
  return v;
}
__device__ inline float to_float(__half v) {
  return __half2float(v);
}
__device__ inline float to_float(__nv_bfloat16 v) {
  return __bfloat162float(v);
}

template <typename T>
__device__ inline T from_float(float v);
template <>
__device__ inline float from_float<float>(float v) {
  return v;
}
template <>
__device__ inline __half from_float<__half>(float v) {
  return __float2half_rn(v);
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}

/// Elements of T in 16 bytes.
template <typename T>
inline constexpr int kVec = 16 / static_cast<int>(sizeof(T));

/// 16 bytes as kVec<T> floats.
template <typename T>
__device__ inline void unpack(const uint4& raw, float (&out)[kVec<T>]) {
  const T* v = reinterpret_cast<const T*>(&raw);
#pragma unroll
  for (int i = 0; i < kVec<T>; ++i) out[i] = to_float(v[i]);
}
template <typename T>
__device__ inline uint4 pack(const float (&in)[kVec<T>]) {
  uint4 raw;
  T* v = reinterpret_cast<T*>(&raw);
#pragma unroll
  for (int i = 0; i < kVec<T>; ++i) v[i] = from_float<T>(in[i]);
  return raw;
}

/// Streaming 16-byte load of data that is read once (weights, K/V): no L1 allocation.
__device__ inline uint4 load_stream(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

/// Butterfly sums and maxima: every lane gets the result, always in the same order.
__device__ inline float warp_sum(float v) {
#pragma unroll
  for (int m = kWarp / 2; m > 0; m >>= 1) v += __shfl_xor_sync(0xffffffffu, v, m);
  return v;
}
__device__ inline float warp_max(float v) {
#pragma unroll
  for (int m = kWarp / 2; m > 0; m >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, m));
  return v;
}

/// Reads a word of every 64 bytes of a kernel's parameters. Each launch has a parameter bank that no multiprocessor has seen
/// yet, and a miss in the constant cache costs a few hundred cycles: better before pdl_wait than after it.
template <typename Params>
__device__ inline void touch_params(const Params& params) {
  const auto* words = reinterpret_cast<const uint32_t*>(&params);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(Params) / sizeof(uint32_t)); i += 16)
    asm volatile("" ::"r"(words[i]));
}

/// Programmatic dependent launch (sm_90). Let the next kernel of the stream start its prologue ...
__device__ inline void pdl_launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
/// ... and wait until every earlier kernel's memory operations are visible. Nothing that an earlier kernel writes may be
/// read, and nothing that an earlier kernel reads may be written, before this.
__device__ inline void pdl_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace tandem::kernels
