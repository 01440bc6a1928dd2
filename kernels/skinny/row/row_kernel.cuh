// The product of one row of x, 16-bit types: nothing but loads that are all in flight before the previous kernel ends.
//
// A warp owns two weight rows (gated: a gate row and its up row) and at most kRowUnits units of their k, all of it in
// registers; longer rows are shared by several warps. x is staged once by the whole block, normalised on the way if asked.
// Blocks are small (4 to 16 warps), so that the next kernel's blocks find room, and its weights are under way, while this
// one still runs. What the epilogue may need is requested together with the weights or with x.
//
// A warp runs through this code about once, so its length is time: instructions come from a cache that a chain of
// different kernels keeps cold. Hence templates for what is fixed, loops that are not unrolled, and one copy of each part.
#pragma once

#include "kernels/common/device.cuh"
#include "kernels/common/memory_ptx.cuh"
#include "kernels/skinny/args.h"
#include "kernels/skinny/finish.cuh"
#include "kernels/skinny/head.cuh"
#include "kernels/skinny/skinny_map.h"
#include "kernels/skinny/stage.cuh"
#include "kernels/skinny/words.cuh"

namespace tandem::kernels {

/// Starts the copy of gamma and beta to shared memory [2][k]. They are weights: may run before pdl_wait.
template <typename T>
__device__ inline void row_request_norm_weights(const SkinnyArgs& a, T* to) {
  const int step = static_cast<int>(blockDim.x) * kVec<T>;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) * kVec<T>; i < a.plan.k; i += step) {
    cp_async_16(to + i, static_cast<const T*>(a.gamma) + i, 16);
    if (a.beta != nullptr) cp_async_16(to + a.plan.k + i, static_cast<const T*>(a.beta) + i, 16);
  }
  cp_async_commit();
}

/// Row `row` of x to shared memory. The caller synchronises after it.
template <typename T>
__device__ inline void row_stage_raw(const SkinnyArgs& a, T* xs, int row) {
  const T* x = static_cast<const T*>(a.x) + row * a.ldx;
  const int step = static_cast<int>(blockDim.x) * kVec<T>;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) * kVec<T>; i < a.plan.k; i += step)
    cp_async_16(xs + i, x + i, 16);
  cp_async_commit();
  cp_async_wait<0>();
}

/// kVec<T> neighbouring elements of x, of type T or float, from L2.
template <typename T>
__device__ inline void row_load(const SkinnyArgs& a, int64_t at, float (&v)[kVec<T>]) {
  if (a.x_float) {
    const float* x = static_cast<const float*>(a.x) + at;
    const uint4 low = load_fresh(x);
    const uint4 high = load_fresh(x + 4);
    const uint32_t words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = __uint_as_float(words[i]);
  } else {
    unpack_words<T>(load_fresh(static_cast<const T*>(a.x) + at), v);
  }
}

/// The norm of row `row` of x to shared memory. Every warp takes mean and squares of its own part about its
/// own mean; one exchange merges the parts (Chan, Golub, LeVeque 1983). scratch: float [k], where a thread reads back what
/// it wrote itself; stats: float2 [warps].
template <typename T>
__device__ inline void row_stage_norm(const SkinnyArgs& a, T* xs, float* scratch, float2* stats,
                                      const T* weights, int row) {
  constexpr int kV = kVec<T>;
  const int step = static_cast<int>(blockDim.x) * kV;
  const int first = static_cast<int>(threadIdx.x) * kV;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int k = a.plan.k;
  const int chunks = k / kV;
  const bool centred = a.prologue == SkinnyPrologue::kLayerNorm;
  float sum = 0.0f;
#pragma unroll 1
  for (int i = first; i < k; i += step) {
    float v[kV];
    row_load<T>(a, row * a.ldx + i, v);
#pragma unroll
    for (int j = 0; j < kV; ++j) sum += v[j];
#pragma unroll
    for (int j = 0; j < kV; j += 4)
      *reinterpret_cast<float4*>(scratch + i + j) = make_float4(v[j], v[j + 1], v[j + 2], v[j + 3]);
  }
  const float count = static_cast<float>(kV * chunks_of_warp(chunks, warps, warp));
  const float own_mean = centred && count > 0.0f ? warp_sum(sum) / count : 0.0f;
  float squares = 0.0f;
#pragma unroll 1
  for (int i = first; i < k; i += step) {
#pragma unroll
    for (int j = 0; j < kV; ++j) squares += (scratch[i + j] - own_mean) * (scratch[i + j] - own_mean);
  }
  squares = warp_sum(squares);
  if (threadIdx.x % kWarp == 0) stats[warp] = make_float2(own_mean, squares);
  cp_async_wait<0>();
  __syncthreads();
  float mean = 0.0f;
  float total = 0.0f;
#pragma unroll 1
  for (int w = 0; w < warps; ++w) {
    const float n = static_cast<float>(kV * chunks_of_warp(chunks, warps, w));
    mean += n * stats[w].x;
  }
  mean /= static_cast<float>(k);
#pragma unroll 1
  for (int w = 0; w < warps; ++w) {
    const float n = static_cast<float>(kV * chunks_of_warp(chunks, warps, w));
    const float away = stats[w].x - mean;
    total += stats[w].y + n * away * away;
  }
  const float inverse = rsqrtf(total / static_cast<float>(k) + a.eps);
  const bool keep =
      a.norm_out != nullptr && static_cast<int>(blockIdx.x) == row % static_cast<int>(gridDim.x);
  T* out = static_cast<T*>(a.norm_out) + static_cast<int64_t>(row) * k;
#pragma unroll 1
  for (int i = first; i < k; i += step) {
    float gamma[kV];
    float beta[kV] = {};
    float v[kV];
    unpack_words<T>(*reinterpret_cast<const uint4*>(weights + i), gamma);
    if (a.beta != nullptr) unpack_words<T>(*reinterpret_cast<const uint4*>(weights + k + i), beta);
#pragma unroll
    for (int j = 0; j < kV; ++j) v[j] = (scratch[i + j] - mean) * inverse * gamma[j] + beta[j];
    const uint4 packed = make_uint4(pack_pair<T>(v[0], v[1]), pack_pair<T>(v[2], v[3]),
                                    pack_pair<T>(v[4], v[5]), pack_pair<T>(v[6], v[7]));
    if (keep) *reinterpret_cast<uint4*>(out + i) = packed;
    *reinterpret_cast<uint4*>(xs + i) = packed;
  }
}

template <typename T, bool kNormed, bool kHead>
__global__ void __launch_bounds__(kWarp* kRowMaxWarps, 1)
    skinny_row_kernel(const __grid_constant__ SkinnyArgs a) {
  constexpr int kV = kVec<T>;
  constexpr int kUnit = kWarp * kV;
  extern __shared__ __align__(128) unsigned char shared[];
  const SkinnyPlan& p = a.plan;
  T* xs = reinterpret_cast<T*>(shared);
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarp, 0);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int pair = warp >> p.wk_shift;
  const int wk = warp & (p.warps_k() - 1);
  const int row = static_cast<int>(blockIdx.y);
  const UnitRange mine = warp_units(p, UnitRange{0, p.units}, wk);
  const int k0 = mine.begin * kUnit + lane * kV;
  const int left = min(mine.end * kUnit, p.k) - k0;  // elements of k from this lane's first one
  // Lanes 0 and 16 end up with the sums of the warp's two rows and write them; gated, lane 0 writes for both.
  const int half = lane / 16;
  const bool writer = wk == 0 && lane % 16 == 0 && (!p.gated || half == 0);

  uint4 w[2][kRowUnits];
  uint4 x[kRowUnits];
  float bias[2] = {0.0f, 0.0f};  // gated: of the gate and of the up row
  float residual = 0.0f;
  const auto column_of = [&](int tile) {
    return tile * p.tile_outputs() + (p.gated ? pair : 2 * pair + half);
  };
  const auto load_residual_of = [&](int tile) {
    const int column = column_of(tile);
    if (kHead || a.residual == nullptr || !writer || column >= p.n) return;
    const int64_t at = row * a.ld_residual + column;
    residual = a.residual_float ? load_fresh_element(static_cast<const float*>(a.residual) + at)
                                : load_fresh_element(static_cast<const T*>(a.residual) + at);
  };

  Candidate best[1];
  int flip = 0;
  const int first = static_cast<int>(blockIdx.x);
  const int stride = static_cast<int>(gridDim.x);
  // The first round only requests: weights of tile `next`, then x.
#pragma unroll 1
  for (int tile = first - stride, next = first; tile < p.tiles; tile = next, next += stride) {
    const bool real = tile >= 0;
    float sum[2] = {0.0f, 0.0f};
    if (real) {
#pragma unroll
      for (int u = 0; u < kRowUnits; ++u) {
        float xf[kV];
        unpack_words<T>(x[u], xf);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          float wf[kV];
          unpack_words<T>(w[j][u], wf);
          float part = wf[0] * xf[0];
#pragma unroll
          for (int i = 1; i < kV; ++i) part = fmaf(wf[i], xf[i], part);
          sum[j] += part;
        }
      }
    }
    const float bias_now[2] = {bias[0], bias[1]};
    const float residual_now = residual;
    if (next < p.tiles) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int weights_row = weight_row(p, next, row_of_pair(p, pair, j));
        const T* from = static_cast<const T*>(a.w) + static_cast<int64_t>(weights_row) * p.k + k0;
#pragma unroll
        for (int u = 0; u < kRowUnits; ++u)
          w[j][u] = u * kUnit < left ? load_stream(from + u * kUnit) : make_uint4(0, 0, 0, 0);
      }
      const int column = column_of(next);
      if (a.bias != nullptr && writer && column < p.n) {
        bias[0] = to_float(static_cast<const T*>(a.bias)[column]);
        if (p.gated) bias[1] = to_float(static_cast<const T*>(a.bias)[p.n + column]);
      }
      if (real) load_residual_of(next);
    }
    if (!real) {
      T* norm_weights = reinterpret_cast<T*>(shared + p.norm_offset);
      if constexpr (kNormed) row_request_norm_weights(a, norm_weights);
      touch_params(a);
      pdl_launch_dependents();
      pdl_wait();
      load_residual_of(next);
      if constexpr (kNormed) {
        row_stage_norm(a, xs, reinterpret_cast<float*>(shared + p.red_offset),
                       reinterpret_cast<float2*>(shared + p.bias_offset), norm_weights, row);
      } else {
        row_stage_raw(a, xs, row);
      }
      __syncthreads();
#pragma unroll
      for (int u = 0; u < kRowUnits; ++u) {
        x[u] =
            u * kUnit < left ? *reinterpret_cast<const uint4*>(xs + k0 + u * kUnit) : make_uint4(0, 0, 0, 0);
      }
      continue;
    }

    float v = (half == 0 ? sum[0] : sum[1]) + __shfl_xor_sync(0xffffffffu, half == 0 ? sum[1] : sum[0], 16);
#pragma unroll
    for (int bit = 8; bit > 0; bit >>= 1) v += __shfl_xor_sync(0xffffffffu, v, bit);
    if (p.wk_shift > 0) {
      // Two buffers, so that one barrier a tile is enough.
      auto* stats = reinterpret_cast<float2*>(shared + p.bias_offset);
      float* parts = reinterpret_cast<float*>(stats + kRowMaxWarps) + flip * 2 * kRowMaxWarps;
      if (lane % 16 == 0) parts[2 * warp + half] = v;
      __syncthreads();
      v = 0.0f;
#pragma unroll 4
      for (int q = 0; q < p.warps_k(); ++q) v += parts[2 * ((pair << p.wk_shift) + q) + half];
      flip ^= 1;
    }
    const float up = p.gated ? __shfl_xor_sync(0xffffffffu, v, 16) : 0.0f;
    const int column = column_of(tile);
    if (!writer || column >= p.n) continue;
    if constexpr (kHead) {
      const float logit = v * a.head.scale + bias_now[0];
      if (a.head.logits != nullptr) a.head.logits[static_cast<int64_t>(row) * p.n + column] = logit;
      best[0].take(logit, column);
    } else {
      float out = v + bias_now[0];
      if (a.activation >= 0) out = activate(a.activation, out);
      if (p.gated) out *= up + bias_now[1];
      out += residual_now;
      const int64_t at = row * a.ldy + column;
      if (a.y_float) {
        static_cast<float*>(a.y)[at] = out;
      } else {
        static_cast<T*>(a.y)[at] = from_float<T>(out);
      }
    }
  }
  if constexpr (kHead) finish_head<1, 1>(a, row, 1, best, shared);
}

}  // namespace tandem::kernels
