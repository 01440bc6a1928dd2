// Reading and writing V consecutive elements of a row that is stored as T or, where a flag says so, as fp32.
#pragma once

#include "kernels/common/device.cuh"

namespace tandem::kernels {

/// A predicated 16-byte load; zeros when not `valid`, and then `p` is not touched. Inline assembly because the compiler
/// splits a plain uint4 load into 2-byte loads when it is only taken apart afterwards, and because a branch around each
/// load would make it wait for one before it issues the next. "memory": it may not move above pdl_wait() or a barrier.
__device__ inline uint4 load_16_if(bool valid, const void* p) {
  uint4 v = {0, 0, 0, 0};
  asm volatile("{\n .reg .pred q;\n setp.ne.b32 q, %4, 0;\n @q ld.global.v4.u32 {%0,%1,%2,%3}, [%5];\n}"
               : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
               : "r"(static_cast<int>(valid)), "l"(p)
               : "memory");
  return v;
}

/// V elements on their way: load() all pieces first, then get() them, so that the loads are in flight together. V is
/// kVec<T> (16-byte accesses, which pointer and index must allow) or 1. MIXED: the flag may be set while T is not float.
template <typename T, int V, bool MIXED>
class Piece {
  static_assert(V == 1 || V == kVec<T>);
  static constexpr int kLoads = MIXED && V != 1 ? V / 4 : 1;

 public:
  /// Elements [i, i + V) of p; zeros when not `valid`.
  __device__ void load(const void* p, int64_t i, bool is_f32, bool valid) {
    const bool wide = sizeof(T) == 4 || (MIXED && is_f32);
    if constexpr (V == 1) {
      const float v = !valid ? 0.0f
                      : wide ? static_cast<const float*>(p)[i]
                             : to_float(static_cast<const T*>(p)[i]);
      raw_[0].x = __float_as_uint(v);
    } else {
      const char* from = static_cast<const char*>(p) + i * (wide ? 4 : static_cast<int>(sizeof(T)));
      raw_[0] = load_16_if(valid, from);
#pragma unroll
      for (int j = 1; j < kLoads; ++j) raw_[j] = load_16_if(valid && wide, from + 16 * j);
    }
  }

  __device__ void get(bool is_f32, float (&out)[V]) const {
    if constexpr (V == 1) {
      out[0] = __uint_as_float(raw_[0].x);
    } else if constexpr (!MIXED) {
      unpack<T>(raw_[0], out);
    } else if (is_f32) {
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
        out[4 * j] = __uint_as_float(raw_[j].x);
        out[4 * j + 1] = __uint_as_float(raw_[j].y);
        out[4 * j + 2] = __uint_as_float(raw_[j].z);
        out[4 * j + 3] = __uint_as_float(raw_[j].w);
      }
    } else {
      unpack<T>(raw_[0], out);
    }
  }

  __device__ void add_to(bool is_f32, float (&out)[V]) const {
    float v[V];
    get(is_f32, v);
#pragma unroll
    for (int j = 0; j < V; ++j) out[j] += v[j];
  }

 private:
  uint4 raw_[kLoads];
};

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
    for (int j = 0; j < V / 4; ++j) {
      v[j] = make_float4(in[4 * j], in[4 * j + 1], in[4 * j + 2], in[4 * j + 3]);
    }
  } else {
    *reinterpret_cast<uint4*>(static_cast<T*>(p) + i) = pack<T>(in);
  }
}

}  // namespace tandem::kernels
