// The product of one row of x, 16-bit types: nothing but loads that are all in flight before the previous kernel ends.
//
// A warp owns two weight rows (gated: a gate row and its up row) and at most kRowUnits units of their k, all of it in
// registers; longer rows are shared by several warps. x is staged once by the whole block, normalised on the way if asked.
// Blocks are small (4 to 16 warps), so that the next kernel's blocks find room, and its weights are under way, while this
// one still runs. What the epilogue may need is requested together with the weights or with x.
#pragma once

#include "kernels/common/device.cuh"
#include "kernels/skinny/args.h"
#include "kernels/skinny/finish.cuh"
#include "kernels/skinny/head.cuh"
#include "kernels/skinny/ptx.cuh"
#include "kernels/skinny/skinny_map.h"
#include "kernels/skinny/stage.cuh"

namespace tandem::kernels {

/// Starts the copy of gamma and beta to shared memory [2][k]. They are weights: may run before pdl_wait.
template <typename T>
__device__ inline void row_request_norm_weights(const SkinnyArgs& a, T* to) {
  const int step = static_cast<int>(blockDim.x) * kVec<T>;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) * kVec<T>; i < a.plan.k; i += step) {
    copy_async(to + i, static_cast<const T*>(a.gamma) + i, 16);
    if (a.beta != nullptr) copy_async(to + a.plan.k + i, static_cast<const T*>(a.beta) + i, 16);
  }
  copy_async_commit();
}

/// Row `row` of x to shared memory, zeros past k. The caller synchronises after it.
template <typename T>
__device__ inline void row_stage_raw(const SkinnyArgs& a, T* xs, int row) {
  constexpr int kBatch = 4;
  const T* x = static_cast<const T*>(a.x) + row * a.ldx;
  const int threads = static_cast<int>(blockDim.x);
  const int chunks = a.plan.k / kVec<T>;
  const int padded = a.plan.units * a.plan.unit / kVec<T>;
  auto* to = reinterpret_cast<uint4*>(xs);
#pragma unroll 1
  for (int base = static_cast<int>(threadIdx.x); base < padded; base += kBatch * threads) {
    uint4 raw[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int i = base + j * threads;
      raw[j] = i < chunks ? load_fresh(x + i * kVec<T>) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if (base + j * threads < padded) to[base + j * threads] = raw[j];
    }
  }
}

/// Four neighbouring elements of x from L2.
template <typename U>
__device__ inline float4 row_load_quad(const U* p) {
  if constexpr (sizeof(U) == 4) {
    const uint4 raw = load_fresh(p);
    return make_float4(__uint_as_float(raw.x), __uint_as_float(raw.y), __uint_as_float(raw.z),
                       __uint_as_float(raw.w));
  } else {
    uint2 raw;
    asm volatile("ld.global.cg.v2.u32 {%0,%1}, [%2];" : "=r"(raw.x), "=r"(raw.y) : "l"(p) : "memory");
    const float2 low = unpack_pair<U>(raw.x);
    const float2 high = unpack_pair<U>(raw.y);
    return make_float4(low.x, low.y, high.x, high.y);
  }
}

/// This thread's quads of x (of type U) to scratch, where only it reads them; returns their sum.
template <typename U>
__device__ inline float row_to_own_scratch(const U* x, float4* scratch, int quads) {
  constexpr int kBatch = 4;
  const int threads = static_cast<int>(blockDim.x);
  float sum = 0.0f;
#pragma unroll 1
  for (int base = static_cast<int>(threadIdx.x); base < quads; base += kBatch * threads) {
    float4 v[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int q = base + j * threads;
      v[j] = q < quads ? row_load_quad(x + 4 * q) : make_float4(0, 0, 0, 0);
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      sum += (v[j].x + v[j].y) + (v[j].z + v[j].w);
      if (base + j * threads < quads) scratch[base + j * threads] = v[j];
    }
  }
  return sum;
}

/// The norm of row `row` of x to shared memory, zeros past k. Every warp takes mean and squares of its own part about its
/// own mean; one exchange merges the parts (Chan, Golub, LeVeque 1983). scratch: float [k]; stats: float2 [warps].
template <typename T>
__device__ inline void row_stage_norm(const SkinnyArgs& a, T* xs, float4* scratch, float2* stats,
                                      const T* weights, int row) {
  const int threads = static_cast<int>(blockDim.x);
  const int tid = static_cast<int>(threadIdx.x);
  const int warp = tid / kWarp;
  const int lane = tid % kWarp;
  const int k = a.plan.k;
  const int quads = k / 4;
  const int64_t at = row * a.ldx;
  const float sum = a.x_float ? row_to_own_scratch(static_cast<const float*>(a.x) + at, scratch, quads)
                              : row_to_own_scratch(static_cast<const T*>(a.x) + at, scratch, quads);
  const bool centred = a.prologue == SkinnyPrologue::kLayerNorm;
  const float count = 4.0f * static_cast<float>(quads_of_warp(quads, threads / kWarp, warp));
  const float own_mean = centred && count > 0.0f ? warp_sum(sum) / count : 0.0f;
  float squares = 0.0f;
#pragma unroll 2
  for (int q = tid; q < quads; q += threads) {
    const float4 v = scratch[q];
    squares += ((v.x - own_mean) * (v.x - own_mean) + (v.y - own_mean) * (v.y - own_mean)) +
               ((v.z - own_mean) * (v.z - own_mean) + (v.w - own_mean) * (v.w - own_mean));
  }
  squares = warp_sum(squares);
  if (lane == 0) stats[warp] = make_float2(own_mean, squares);
  copy_async_wait<0>();
  __syncthreads();
  const int warps = threads / kWarp;
  float mean = 0.0f;
  if (centred) {
#pragma unroll 4
    for (int w = 0; w < warps; ++w) {
      mean += 4.0f * static_cast<float>(quads_of_warp(quads, warps, w)) * stats[w].x;
    }
    mean /= static_cast<float>(k);
  }
  float total = 0.0f;
#pragma unroll 4
  for (int w = 0; w < warps; ++w) {
    const float2 part = stats[w];
    const float away = part.x - mean;
    total += part.y + 4.0f * static_cast<float>(quads_of_warp(quads, warps, w)) * away * away;
  }
  const float inverse = rsqrtf(total / static_cast<float>(k) + a.eps);
  T* out = a.norm_out != nullptr && static_cast<int>(blockIdx.x) == row % static_cast<int>(gridDim.x)
               ? static_cast<T*>(a.norm_out) + static_cast<int64_t>(row) * k
               : nullptr;
  const int padded = a.plan.units * a.plan.unit / 4;
#pragma unroll 2
  for (int q = tid; q < padded; q += threads) {
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (q < quads) {
      v = scratch[q];
      const float4 gamma = load_quad(weights + 4 * q);
      v.x = (v.x - mean) * inverse * gamma.x;
      v.y = (v.y - mean) * inverse * gamma.y;
      v.z = (v.z - mean) * inverse * gamma.z;
      v.w = (v.w - mean) * inverse * gamma.w;
      if (a.beta != nullptr) {
        const float4 beta = load_quad(weights + k + 4 * q);
        v.x += beta.x;
        v.y += beta.y;
        v.z += beta.z;
        v.w += beta.w;
      }
      if (out != nullptr) store_quad(out + 4 * q, v);
    }
    store_quad(xs + 4 * q, v);
  }
}

template <typename T, bool kHead>
__global__ void __launch_bounds__(kWarp* kRowMaxWarps, 1)
    skinny_row_kernel(const __grid_constant__ SkinnyArgs a) {
  extern __shared__ __align__(128) unsigned char shared[];
  const SkinnyPlan& p = a.plan;
  T* xs = reinterpret_cast<T*>(shared);
  auto* scratch = reinterpret_cast<float4*>(shared + p.red_offset);
  auto* stats = reinterpret_cast<float2*>(shared + p.bias_offset);
  float* parts = reinterpret_cast<float*>(stats + kRowMaxWarps);  // [2][warps][2]
  T* norm_weights = reinterpret_cast<T*>(shared + p.norm_offset);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarp, 0);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int wk = warp & (p.warps_k() - 1);
  const int pair = warp >> p.wk_shift;
  const int row = static_cast<int>(blockIdx.y);
  const int stride = static_cast<int>(gridDim.x);
  const UnitRange mine = warp_units(p, UnitRange{0, p.units}, wk);
  const bool normed = a.prologue != SkinnyPrologue::kRaw;
  // Lanes 0 and 16 end up with the sums of the warp's two rows and write them; gated, lane 0 writes for both.
  const int half = lane / 16;
  const bool writer = wk == 0 && lane % 16 == 0 && (!p.gated || half == 0);

  uint4 w[2][kRowUnits];
  auto request_weights = [&](int tile) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const T* from = static_cast<const T*>(a.w) +
                      static_cast<int64_t>(weight_row(p, tile, row_of_pair(p, pair, j))) * p.k;
#pragma unroll
      for (int u = 0; u < kRowUnits; ++u) {
        const int at = (mine.begin + u) * p.unit + lane * kVec<T>;
        w[j][u] = mine.begin + u < mine.end && at < p.k ? load_stream(from + at) : make_uint4(0, 0, 0, 0);
      }
    }
  };
  float bias[2] = {0.0f, 0.0f};  // gated: of the gate and of the up row
  float residual = 0.0f;
  auto column_of = [&](int tile) { return tile * p.tile_outputs() + (p.gated ? pair : 2 * pair + half); };
  auto request_bias = [&](int tile) {
    const int column = column_of(tile);
    if (!writer || column >= p.n || a.bias == nullptr) return;
    const T* from = static_cast<const T*>(a.bias);
    bias[0] = to_float(from[column]);
    if (p.gated) bias[1] = to_float(from[p.n + column]);
  };
  auto request_residual = [&](int tile) {
    const int column = column_of(tile);
    if (!writer || column >= p.n || a.residual == nullptr) return;
    const int64_t at = row * a.ld_residual + column;
    residual = a.residual_float ? load_fresh_element(static_cast<const float*>(a.residual) + at)
                                : load_fresh_element(static_cast<const T*>(a.residual) + at);
  };

  const int first = static_cast<int>(blockIdx.x);
  request_weights(first);
  request_bias(first);
  if (normed) row_request_norm_weights(a, norm_weights);
  pdl_launch_dependents();
  pdl_wait();
  request_residual(first);
  if (normed) {
    row_stage_norm(a, xs, scratch, stats, norm_weights, row);
  } else {
    row_stage_raw(a, xs, row);
  }
  __syncthreads();
  uint4 x[kRowUnits];
#pragma unroll
  for (int u = 0; u < kRowUnits; ++u) {
    x[u] = mine.begin + u < mine.end
               ? *reinterpret_cast<const uint4*>(xs + (mine.begin + u) * p.unit + lane * kVec<T>)
               : make_uint4(0, 0, 0, 0);
  }

  Candidate best[1];
  int flip = 0;
#pragma unroll 1
  for (int tile = first; tile < p.tiles; tile += stride) {
    float sum[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float even = 0.0f;
      float odd = 0.0f;
#pragma unroll
      for (int u = 0; u < kRowUnits; ++u) {
        float xf[kVec<T>];
        float wf[kVec<T>];
        unpack_words<T>(x[u], xf);
        unpack_words<T>(w[j][u], wf);
#pragma unroll
        for (int i = 0; i < kVec<T>; i += 2) {
          even = fmaf(wf[i], xf[i], even);
          odd = fmaf(wf[i + 1], xf[i + 1], odd);
        }
      }
      sum[j] = even + odd;
    }
    const float bias_now[2] = {bias[0], bias[1]};
    const float residual_now = residual;
    if (tile + stride < p.tiles) {
      request_weights(tile + stride);
      request_bias(tile + stride);
      request_residual(tile + stride);
    }
    float v = half == 0 ? sum[0] : sum[1];
    v += __shfl_xor_sync(0xffffffffu, half == 0 ? sum[1] : sum[0], 16);
#pragma unroll
    for (int bit = 8; bit > 0; bit >>= 1) v += __shfl_xor_sync(0xffffffffu, v, bit);
    if (p.wk_shift > 0) {
      float* mine_parts = parts + flip * 2 * warps;
      if (lane % 16 == 0) mine_parts[2 * warp + half] = v;
      __syncthreads();
      v = 0.0f;
      for (int q = 0; q < p.warps_k(); ++q) v += mine_parts[2 * ((pair << p.wk_shift) + q) + half];
      flip ^= 1;  // the next tile's parts: one barrier a tile is enough
    }
    const float up = p.gated ? __shfl_xor_sync(0xffffffffu, v, 16) : 0.0f;
    const int column = column_of(tile);
    if (writer && column < p.n) {
      if constexpr (kHead) {
        const float logit = v * a.head.scale + bias_now[0];
        if (a.head.logits != nullptr) a.head.logits[static_cast<int64_t>(row) * p.n + column] = logit;
        best[0].take(logit, column);
      } else {
        float out = activate(a.activation, v + bias_now[0]);
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
  }
  if constexpr (kHead) finish_head<1, 1>(a, row, 1, best, shared);
}

}  // namespace tandem::kernels
