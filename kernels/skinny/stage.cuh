// Bringing x into shared memory, as it is or normalised. Everything here runs after pdl_wait, but stage_norm_weights.
#pragma once

#include "kernels/common/device.cuh"
#include "kernels/common/memory_ptx.cuh"
#include "kernels/skinny/args.h"
#include "kernels/skinny/choose/skinny_config.h"
#include "kernels/skinny/formats/format.cuh"
#include "kernels/skinny/words.cuh"

namespace tandem::kernels {

/// Starts the copy of units [range) of rows [row0, row0 + rows) of x to `to` (rows x_stride apart); zeros past k.
template <typename T>
__device__ inline void stage_raw(const SkinnyArgs& a, T* to, const UnitRange& range, int row0, int rows) {
  constexpr int kV = kVec<T>;
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  // Few rows: several warps share one.
  const int rows_shift = rows >= 8 ? 3 : rows >= 4 ? 2 : rows >= 2 ? 1 : 0;
  const int first = (((warp >> rows_shift) * kWarp) + lane) * kV;
  const int step = (kSkinnyWarps >> rows_shift) * kWarp * kV;
  const int k0 = range.begin * a.plan.unit;
  const int length = (range.end - range.begin) * a.plan.unit;
  const T* x = static_cast<const T*>(a.x);
#pragma unroll 1
  for (int r = warp & ((1 << rows_shift) - 1); r < rows; r += 1 << rows_shift) {
    const T* from = x + (row0 + r) * a.ldx;
#pragma unroll 2
    for (int i = first; i < length; i += step) {
      const bool inside = k0 + i < a.plan.k;
      cp_async_16(to + r * a.plan.x_stride + i, from + (inside ? k0 + i : 0), inside ? 16 : 0);
    }
  }
}

/// stage_raw for weights of codes, whose x lies in another order: through registers, in two steps, so that a product can run
/// while the first kBatch loads are under way (of several rows when a warp has them). Both steps take the same chunk.
template <class Format, int kBatch>
struct XStager {
  using T = typename Format::T;
  static constexpr int kV = kVec<T>;

  uint4 raw[kBatch];

  /// Which piece of a chunk comes next: of the warp's rows in turn, then the next ones of these rows.
  struct Place {
    int row;
    int i;
    int first_row;
    int row_step;
    int step;
    int length;

    __device__ Place(const SkinnyArgs& a, const UnitRange& range, int rows) {
      const int warp = static_cast<int>(threadIdx.x) / kWarp;
      const int shift = rows >= 8 ? 3 : rows >= 4 ? 2 : rows >= 2 ? 1 : 0;
      row_step = 1 << shift;
      first_row = row = warp & (row_step - 1);
      step = (kSkinnyWarps >> shift) * kWarp * kV;
      length = (range.end - range.begin) * a.plan.unit;
      i = row < rows ? ((warp >> shift) * kWarp + static_cast<int>(threadIdx.x) % kWarp) * kV : length;
    }
    __device__ void advance(int rows) {
      row += row_step;
      if (row < rows) return;
      row = first_row;
      i += step;
    }
  };

  __device__ void load(const SkinnyArgs& a, const UnitRange& range, int rows, Place at) {
    const int k0 = range.begin * a.plan.unit;
    const T* x = static_cast<const T*>(a.x) + k0;
#pragma unroll
    for (int j = 0; j < kBatch; ++j, at.advance(rows)) {
      raw[j] = at.i < at.length && k0 + at.i < a.plan.k ? load_fresh(x + at.row * a.ldx + at.i)
                                                        : make_uint4(0, 0, 0, 0);
    }
  }

  /// Asks for the chunk's first pieces.
  __device__ void request(const SkinnyArgs& a, const UnitRange& range, int rows) {
    load(a, range, rows, Place(a, range, rows));
  }

  /// Writes this thread's part of the chunk.
  __device__ void finish(const SkinnyArgs& a, T* to, const UnitRange& range, int rows) {
    Place at(a, range, rows);
    bool loaded = true;
#pragma unroll 1
    while (at.i < at.length) {
      if (!loaded) load(a, range, rows, at);
      loaded = false;
#pragma unroll
      for (int j = 0; j < kBatch; ++j, at.advance(rows)) {
        if (at.i >= at.length) continue;
        T* piece = to + at.row * a.plan.x_stride + staged_place<Format, MmaMap::kLanes>(at.i);
        *reinterpret_cast<uint4*>(piece) = raw[j];
      }
    }
  }
};

/// Starts the copy of gamma and beta to shared memory [2][k]. They are weights: may run before pdl_wait.
template <typename T>
__device__ inline void stage_norm_weights(const SkinnyArgs& a, T* to) {
  constexpr int kV = kVec<T>;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) * kV; i < a.plan.k; i += kSkinnyThreads * kV) {
    cp_async_16(to + i, static_cast<const T*>(a.gamma) + i, 16);
    if (a.beta != nullptr) cp_async_16(to + a.plan.k + i, static_cast<const T*>(a.beta) + i, 16);
  }
  cp_async_commit();
}

/// Four neighbouring elements.
template <typename T>
__device__ inline float4 load_quad(const T* p) {
  if constexpr (sizeof(T) == 4) {
    return *reinterpret_cast<const float4*>(p);
  } else {
    const uint2 raw = *reinterpret_cast<const uint2*>(p);
    const float2 low = unpack_pair<T>(raw.x);
    const float2 high = unpack_pair<T>(raw.y);
    return make_float4(low.x, low.y, high.x, high.y);
  }
}
template <typename T>
__device__ inline void store_quad(T* p, const float4& v) {
  if constexpr (sizeof(T) == 4) {
    *reinterpret_cast<float4*>(p) = v;
  } else {
    *reinterpret_cast<uint2*>(p) = make_uint2(pack_pair<T>(v.x, v.y), pack_pair<T>(v.z, v.w));
  }
}

/// One row of x (of type U) to fp32 scratch; returns this lane's share of the sum.
template <typename U>
__device__ inline float row_to_scratch(const U* x, float* scratch, int k, int lane) {
  constexpr int kV = kVec<U>;
  constexpr int kBatch = 4;  // loads in flight: the latency of L2 is paid once for 4 x 512 bytes
  float sum = 0.0f;
#pragma unroll 1
  for (int base = lane * kV; base < k; base += kBatch * kWarp * kV) {
    uint4 raw[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if (base + j * kWarp * kV < k) raw[j] = load_fresh(x + base + j * kWarp * kV);
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if (base + j * kWarp * kV < k) {
        float v[kV];
        unpack_words<U>(raw[j], v);
#pragma unroll
        for (int i = 0; i < kV; i += 4) {
          sum += (v[i] + v[i + 1]) + (v[i + 2] + v[i + 3]);
          *reinterpret_cast<float4*>(scratch + base + j * kWarp * kV + i) =
              make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
        }
      }
    }
  }
  return sum;
}

/// Normalises rows [row0, row0 + rows) of x into `to`, zeros past k. A warp owns a row; mean and variance in fp32, in two
/// passes. `scratch`: float [norm_warps][k]; `weights`: gamma, beta. The caller synchronises before and after.
template <class Format>
__device__ inline void stage_norm(const SkinnyArgs& a, typename Format::X* to, float* scratch,
                                  const typename Format::T* weights, int row0, int rows) {
  using T = typename Format::T;
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int k = a.plan.k;
  const int padded = a.plan.units * a.plan.unit;
  if (warp >= a.plan.norm_warps) return;
  float* mine = scratch + warp * k;
#pragma unroll 1
  for (int r = warp; r < rows; r += a.plan.norm_warps) {
    const int64_t at = (row0 + r) * a.ldx;
    const float sum = a.x_float ? row_to_scratch(static_cast<const float*>(a.x) + at, mine, k, lane)
                                : row_to_scratch(static_cast<const T*>(a.x) + at, mine, k, lane);
    const float mean =
        a.prologue == SkinnyPrologue::kLayerNorm ? warp_sum(sum) / static_cast<float>(k) : 0.0f;
    __syncwarp();
    float squares = 0.0f;
#pragma unroll 4
    for (int i = lane * 4; i < k; i += kWarp * 4) {
      const float4 v = *reinterpret_cast<const float4*>(mine + i);
      squares += ((v.x - mean) * (v.x - mean) + (v.y - mean) * (v.y - mean)) +
                 ((v.z - mean) * (v.z - mean) + (v.w - mean) * (v.w - mean));
    }
    const float inverse = rsqrtf(warp_sum(squares) / static_cast<float>(k) + a.eps);
    // One block of the grid writes a given row out.
    T* out = nullptr;
    if (a.norm_out != nullptr && (row0 + r) % static_cast<int>(gridDim.x) == static_cast<int>(blockIdx.x)) {
      out = static_cast<T*>(a.norm_out) + static_cast<int64_t>(row0 + r) * k;
    }
#pragma unroll 4
    for (int i = lane * 4; i < padded; i += kWarp * 4) {
      float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (i < k) {
        v = *reinterpret_cast<const float4*>(mine + i);
        const float4 gamma = load_quad(weights + i);
        v.x = (v.x - mean) * inverse * gamma.x;
        v.y = (v.y - mean) * inverse * gamma.y;
        v.z = (v.z - mean) * inverse * gamma.z;
        v.w = (v.w - mean) * inverse * gamma.w;
        if (a.beta != nullptr) {
          const float4 beta = load_quad(weights + k + i);
          v.x += beta.x;
          v.y += beta.y;
          v.z += beta.z;
          v.w += beta.w;
        }
        if (out != nullptr) store_quad(out + i, v);
      }
      store_quad(to + r * a.plan.x_stride + staged_place<Format, MmaMap::kLanes>(i), v);
    }
    __syncwarp();  // the next row reuses the scratch
  }
}

}  // namespace tandem::kernels
