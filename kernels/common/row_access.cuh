// Reading and writing V consecutive elements of a row that is stored as T or, where a flag says so, as fp32.
#pragma once

#include "kernels/common/device.cuh"

namespace tandem::kernels {

/// out = p[i .. i + V). V is kVec<T> (16-byte accesses, so p and i must allow them) or 1.
template <typename T, int V>
__device__ inline void load_row(const void* p, int64_t i, bool is_f32, float (&out)[V]) {
  static_assert(V == 1 || V == kVec<T>);
  if constexpr (V == 1) {
    out[0] = is_f32 ? static_cast<const float*>(p)[i] : to_float(static_cast<const T*>(p)[i]);
  } else if (is_f32) {
    const auto* v = reinterpret_cast<const float4*>(static_cast<const float*>(p) + i);
#pragma unroll
    for (int j = 0; j < V / 4; ++j) {
      const float4 f = v[j];
      out[4 * j] = f.x;
      out[4 * j + 1] = f.y;
      out[4 * j + 2] = f.z;
      out[4 * j + 3] = f.w;
    }
  } else {
    unpack<T>(*reinterpret_cast<const uint4*>(static_cast<const T*>(p) + i), out);
  }
}

/// p[i .. i + V) = in, rounded to T unless is_f32.
template <typename T, int V>
__device__ inline void store_row(void* p, int64_t i, bool is_f32, const float (&in)[V]) {
  static_assert(V == 1 || V == kVec<T>);
  if constexpr (V == 1) {
    if (is_f32) {
      static_cast<float*>(p)[i] = in[0];
    } else {
      static_cast<T*>(p)[i] = from_float<T>(in[0]);
    }
  } else if (is_f32) {
    auto* v = reinterpret_cast<float4*>(static_cast<float*>(p) + i);
#pragma unroll
    for (int j = 0; j < V / 4; ++j)
      v[j] = make_float4(in[4 * j], in[4 * j + 1], in[4 * j + 2], in[4 * j + 3]);
  } else {
    *reinterpret_cast<uint4*>(static_cast<T*>(p) + i) = pack<T>(in);
  }
}

}  // namespace tandem::kernels
