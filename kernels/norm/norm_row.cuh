// From the sum s of a row to its norm, in registers: the arithmetic that every kernel which ends in a norm shares, so that fused
// and plain norms give the same bits. Internal to the norm kernels and to the collectives.
#pragma once

#include "kernels/common/codes.cuh"
#include "kernels/common/device.cuh"
#include "kernels/common/row_access.cuh"
#include "kernels/norm/norm.h"

namespace tandem::kernels {

/// Sum over the threads of a row; every thread gets it, added in the same order each time. `partial` may not
/// be used by another call without a barrier between.
template <bool WARP>
__device__ float row_sum(float v, float* partial) {
  v = warp_sum(v);
  if constexpr (WARP) return v;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (lane == 0) partial[threadIdx.x / kWarp] = v;
  __syncthreads();
  return warp_sum(lane < static_cast<int>(blockDim.x) / kWarp ? partial[lane] : 0.0f);
}

/// The same for the largest of bits.
template <bool WARP>
__device__ uint32_t row_max(uint32_t v, float* partial) {
  v = __reduce_max_sync(0xffffffffu, v);
  if constexpr (WARP) return v;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (lane == 0) partial[threadIdx.x / kWarp] = __uint_as_float(v);
  __syncthreads();
  return __reduce_max_sync(0xffffffffu,
                           lane < static_cast<int>(blockDim.x) / kWarp ? __float_as_uint(partial[lane]) : 0u);
}

__device__ inline bool codes_wanted(const NormParams& p) {
  return p.codes != nullptr;
}
/// v as y's type without codes has it.
template <typename T>
__device__ inline float as_stored(float v) {
  return to_float(from_float<T>(v));
}

template <typename T, int V>
__device__ inline void store_y_codes(const NormParams& p, int64_t i, const Divider& divide,
                                     const float (&y)[V]) {
  float v[V];
#pragma unroll
  for (int j = 0; j < V; ++j) v[j] = as_stored<T>(y[j]);
  if (p.code_dtype == DType::kF8) {
    store_codes<DType::kF8>(p.codes, i, divide, v);
  } else {
    store_codes<DType::kI8>(p.codes, i, divide, v);
  }
}

/// Where a thread stands: element (c * threads + place) * V is the first of its chunk c.
struct RowPlace {
  int64_t row;
  int64_t start;  ///< row * d
  int threads;    ///< of the row
  int place;
  float inverse_d;
  bool stream_f32;  ///< sum is stored as fp32
};

/// Stores s as p.sum, and norm(s) * gamma + beta as p.y and as codes, each where it is wanted. What lies beyond d must be 0 in
/// s. With one chunk gamma and beta are loaded already; otherwise load_weights(i) loads those of element i. `partial` may not
/// be used again without a barrier of the row's threads between.
template <typename T, int CHUNKS, bool WARP, typename LoadWeights>
__device__ __forceinline__ void finish_row(const NormParams& p, const RowPlace& at,
                                           float (&s)[CHUNKS][kVec<T>], float (&partial)[3][kWarp],
                                           const Piece<T, kVec<T>, false>& gamma,
                                           const Piece<T, kVec<T>, false>& beta,
                                           const LoadWeights& load_weights) {
  constexpr int V = kVec<T>;
  if (p.sum != nullptr) {
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
      const int i = (c * at.threads + at.place) * V;
      if (i < p.d) store_row<T>(p.sum, at.start + i, at.stream_f32, s[c]);
    }
  }

  float mean = 0;
  if (p.norm == Norm::kLayer) {
    float total = 0;  // what lies beyond d is 0
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
#pragma unroll
      for (int j = 0; j < V; ++j) total += s[c][j];
    }
    mean = row_sum<WARP>(total, partial[0]) * at.inverse_d;
  }
  float squares = 0;
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    if ((c * at.threads + at.place) * V >= p.d) continue;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      s[c][j] -= mean;
      squares += s[c][j] * s[c][j];
    }
  }
  const float scale = rsqrtf(row_sum<WARP>(squares, partial[1]) * at.inverse_d + p.eps);

#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    const int i = (c * at.threads + at.place) * V;
    if (CHUNKS > 1) load_weights(i);
    float g[V];
    gamma.get(false, g);
#pragma unroll
    for (int j = 0; j < V; ++j) s[c][j] *= scale * g[j];
    beta.add_to(false, s[c]);  // zeros when there is none
    if (i < p.d && p.y != nullptr) store_row<T>(p.y, at.start + i, sizeof(T) == 4, s[c]);
  }
  if (!codes_wanted(p)) return;

  uint32_t largest = 0;
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    if ((c * at.threads + at.place) * V >= p.d) continue;
#pragma unroll
    for (int j = 0; j < V; ++j) largest = max(largest, magnitude_bits(as_stored<T>(s[c][j])));
  }
  largest = row_max<WARP>(largest, partial[2]);
  const Divider divide(scale_of(largest, p.code_dtype));
  if (at.place == 0) p.scales[at.row] = divide.scale();
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    const int i = (c * at.threads + at.place) * V;
    if (i < p.d) store_y_codes<T>(p, at.start + i, divide, s[c]);
  }
}

}  // namespace tandem::kernels
