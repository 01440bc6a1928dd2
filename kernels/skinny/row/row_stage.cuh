// How the one row of x of the row kernel comes into shared memory: as it is, normalised, quantised.
#pragma once

#include "kernels/common/device.cuh"
#include "kernels/common/memory_ptx.cuh"
#include "kernels/skinny/args.h"
#include "kernels/skinny/finish.cuh"
#include "kernels/skinny/formats/format.cuh"
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

/// Zeros from k to the end of the staged row, where whole units of weights are multiplied.
template <class Format>
__device__ inline void row_stage_rest(const SkinnyArgs& a, typename Format::X* xs) {
  constexpr int kV = kVec<typename Format::T>;
#pragma unroll 1
  for (int i = a.plan.k + static_cast<int>(threadIdx.x) * kV; i < a.plan.x_stride;
       i += static_cast<int>(blockDim.x) * kV) {
    if constexpr (sizeof(typename Format::X) == 2) {
      store_piece<Format, kWarp>(xs, i, make_uint4(0, 0, 0, 0));
    } else {
      *reinterpret_cast<uint2*>(xs + staged_place<Format, kWarp>(i)) = make_uint2(0, 0);
    }
  }
}

/// The largest of `bits` over the block. maxima: uint32_t [warps], free until the caller's next barrier.
__device__ inline uint32_t row_block_max(uint32_t bits, uint32_t* maxima) {
  bits = __reduce_max_sync(0xffffffffu, bits);
  if (threadIdx.x % kWarp == 0) maxima[threadIdx.x / kWarp] = bits;
  __syncthreads();
#pragma unroll 1
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) bits = ::max(bits, maxima[w]);
  return bits;
}

/// The larger of `pairs` and the magnitudes of eight bf16, in both halves; a NaN's are above all.
__device__ inline uint32_t raise_pairs(uint32_t pairs, const uint4& raw) {
  const uint32_t low = __vmaxu2(raw.x & 0x7fff7fffu, raw.y & 0x7fff7fffu);
  const uint32_t high = __vmaxu2(raw.z & 0x7fff7fffu, raw.w & 0x7fff7fffu);
  return __vmaxu2(pairs, __vmaxu2(low, high));
}

/// Eight neighbours of a row of x, from element `i` on, to the staged row; as codes if x is quantised.
template <class Format, int kLanes>
__device__ inline void store_staged(typename Format::X* row, int i, const uint4& raw, const RowQuantiser& q) {
  if constexpr (Format::kQuantises) {
    auto* to = row + staged_place<Format, kLanes>(i);
    float v[8];
    unpack_words<typename Format::T>(raw, v);
    Format::store_codes(to, make_float4(v[0], v[1], v[2], v[3]), q);
    Format::store_codes(to + 4, make_float4(v[4], v[5], v[6], v[7]), q);
  } else {
    store_piece<Format, kLanes>(row, i, raw);
  }
}

/// Row `row` of x to shared memory. The caller synchronises after it. Returns the row's scale, with Format::kQuantises.
template <class Format, int kHeld>
__device__ inline float row_stage_raw(const SkinnyArgs& a, typename Format::X* xs, uint32_t* maxima,
                                      int row) {
  using T = typename Format::T;
  const T* x = static_cast<const T*>(a.x) + row * a.ldx;
  const int step = static_cast<int>(blockDim.x) * kVec<T>;
  if constexpr (Format::kPlain) {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x) * kVec<T>; i < a.plan.k; i += step)
      cp_async_16(xs + i, x + i, 16);
    cp_async_commit();
    cp_async_wait<0>();
    return 1.0f;
  } else {
    row_stage_rest<Format>(a, xs);
    // kHeld of the thread's pieces in flight at once, and kept; of a row longer than that the rest is read twice.
    const int first = static_cast<int>(threadIdx.x) * kVec<T>;
    uint4 raw[kHeld];
#pragma unroll
    for (int j = 0; j < kHeld; ++j)
      raw[j] = first + j * step < a.plan.k ? load_fresh(x + first + j * step) : make_uint4(0, 0, 0, 0);
    [[maybe_unused]] RowQuantiser q{};
    if constexpr (Format::kQuantises) {
      uint32_t pairs = 0;  // the largest magnitude of even and of odd elements
#pragma unroll
      for (int j = 0; j < kHeld; ++j) pairs = raise_pairs(pairs, raw[j]);
#pragma unroll 1
      for (int i = first + kHeld * step; i < a.plan.k; i += step)
        pairs = raise_pairs(pairs, load_fresh(x + i));
      const uint32_t max = row_block_max(::max(pairs << 16, pairs & 0xffff0000u), maxima);
      q = row_quantiser(float_of_bits(max), Format::kLargest);
    }
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      if (first + j * step < a.plan.k) store_staged<Format, kWarp>(xs, first + j * step, raw[j], q);
    }
#pragma unroll 1
    for (int i = first + kHeld * step; i < a.plan.k; i += step)
      store_staged<Format, kWarp>(xs, i, load_fresh(x + i), q);
    return q.scale;
  }
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

/// What a row's norm takes off and multiplies by: mean, and 1 / sqrt(variance + eps); of an RMS norm 0, and that of the mean square.
struct RowNorm {
  float mean;
  float inverse;
};
/// The parts of all warps merged (Chan, Golub, LeVeque 1983), by each warp for itself, in one order. stats: float2 [warps], written and synchronised.
__device__ inline RowNorm row_norm(const SkinnyArgs& a, const float2* stats) {
  constexpr int kV = 8;  // elements of a chunk
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const float2 part = lane < warps ? stats[lane] : make_float2(0.0f, 0.0f);
  const float of_k = __fdividef(1.0f, static_cast<float>(a.plan.k));
  if (a.prologue == SkinnyPrologue::kRmsNorm)
    return {.mean = 0.0f, .inverse = rsqrtf(fmaf(warp_sum(part.y), of_k, a.eps))};
  const float n = lane < warps ? static_cast<float>(kV * chunks_of_warp(a.plan.k / kV, warps, lane)) : 0.0f;
  const float mean = warp_sum(n * part.x) * of_k;
  const float away = part.x - mean;
  return {.mean = mean, .inverse = rsqrtf(fmaf(warp_sum(fmaf(n * away, away, part.y)), of_k, a.eps))};
}

/// A thread's share of what row_norm() merges: sums about the first element of its warp's part, so that mean and squares take one
/// pass, and a large mean costs no digits.
template <typename T>
struct RowPart {
  float about = 0.0f;
  float sum = 0.0f;
  float squares = 0.0f;

  __device__ void begin(const SkinnyArgs& a, int row) {
    const int first = static_cast<int>(threadIdx.x) / kWarp * kWarp * kVec<T>;
    if (a.prologue != SkinnyPrologue::kLayerNorm || first >= a.plan.k) return;
    const int64_t at = row * a.ldx + first;
    about = a.x_float ? load_fresh_element(static_cast<const float*>(a.x) + at)
                      : load_fresh_element(static_cast<const T*>(a.x) + at);
  }
  __device__ void add(const float (&v)[kVec<T>]) {
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) {
      const float away = v[j] - about;
      sum += away;
      squares = fmaf(away, away, squares);
    }
  }
  /// The warp's to stats: float2 [warps].
  __device__ void end(const SkinnyArgs& a, float2* stats) {
    const int warps = static_cast<int>(blockDim.x) / kWarp;
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    squares = warp_sum(squares);
    if (a.prologue == SkinnyPrologue::kLayerNorm) {
      sum = warp_sum(sum);
      const float count = static_cast<float>(kVec<T> * chunks_of_warp(a.plan.k / kVec<T>, warps, warp));
      const float away = count > 0.0f ? __fdividef(sum, count) : 0.0f;
      about += away;
      squares = fmaxf(fmaf(-sum, away, squares), 0.0f);
    }
    if (threadIdx.x % kWarp == 0) stats[warp] = make_float2(about, squares);
  }
};

/// May a kernel of this format multiply the row by gamma alone and apply the rest of its norm to the sums, so that no product waits
/// for the whole row's moments? bf16 has the range of floats; a half times gamma could leave its own.
template <class Format>
constexpr bool kDefersNorm = Format::kPlain&& std::is_same_v<typename Format::T, __nv_bfloat16>;
/// Does this product? An RMS norm is a factor of the sums; a layer norm needs those of w gamma and w beta.
__device__ inline bool defers_norm(const SkinnyArgs& a) {
  return a.norm_sums != nullptr || (a.prologue == SkinnyPrologue::kRmsNorm && a.beta == nullptr);
}
/// Row `row` of x times gamma to shared memory, and the warps' parts of its moments to stats. The caller synchronises after it.
/// scratch as row_stage_norm has it; written where norm_out is wanted.
template <class Format>
__device__ inline void row_stage_scaled(const SkinnyArgs& a, typename Format::X* xs, float* scratch,
                                        float2* stats, const typename Format::T* weights, int row) {
  using T = typename Format::T;
  constexpr int kV = kVec<T>;
  const int step = static_cast<int>(blockDim.x) * kV;
  RowPart<T> part;
  part.begin(a, row);
  cp_async_wait<0>();  // a thread reads the gamma that it asked for itself
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) * kV; i < a.plan.k; i += step) {
    float v[kV];
    float gamma[kV];
    row_load<T>(a, row * a.ldx + i, v);
    unpack_words<T>(*reinterpret_cast<const uint4*>(weights + i), gamma);
    part.add(v);
    if (a.norm_out != nullptr) {
#pragma unroll
      for (int j = 0; j < kV; j += 4)
        *reinterpret_cast<float4*>(scratch + i + j) = make_float4(v[j], v[j + 1], v[j + 2], v[j + 3]);
    }
#pragma unroll
    for (int j = 0; j < kV; ++j) v[j] *= gamma[j];
    store_piece<Format, kWarp>(xs, i,
                               make_uint4(pack_pair<T>(v[0], v[1]), pack_pair<T>(v[2], v[3]),
                                          pack_pair<T>(v[4], v[5]), pack_pair<T>(v[6], v[7])));
  }
  part.end(a, stats);
}

/// Eight elements of the row's norm from element `i` on, packed.
template <typename T>
__device__ inline uint4 row_normed(const SkinnyArgs& a, const float* scratch, const T* weights,
                                   const RowNorm& norm, int i) {
  constexpr int kV = kVec<T>;
  float gamma[kV];
  float beta[kV] = {};
  float v[kV];
  unpack_words<T>(*reinterpret_cast<const uint4*>(weights + i), gamma);
  if (a.beta != nullptr) unpack_words<T>(*reinterpret_cast<const uint4*>(weights + a.plan.k + i), beta);
#pragma unroll
  for (int j = 0; j < kV; ++j) v[j] = (scratch[i + j] - norm.mean) * norm.inverse * gamma[j] + beta[j];
  return make_uint4(pack_pair<T>(v[0], v[1]), pack_pair<T>(v[2], v[3]), pack_pair<T>(v[4], v[5]),
                    pack_pair<T>(v[6], v[7]));
}
/// norm_out after row_stage_scaled: each block writes its share, so that none is late.
template <typename T>
__device__ inline void row_write_norm(const SkinnyArgs& a, const float* scratch, const T* weights,
                                      const RowNorm& norm, int row) {
  constexpr int kV = kVec<T>;
  T* out = static_cast<T*>(a.norm_out) + static_cast<int64_t>(row) * a.plan.k;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) * kV; i < a.plan.k; i += static_cast<int>(blockDim.x) * kV) {
    if (static_cast<unsigned>(i / kV) % gridDim.x == blockIdx.x)
      *reinterpret_cast<uint4*>(out + i) = row_normed<T>(a, scratch, weights, norm, i);
  }
}

/// The norm of row `row` of x to shared memory. Every warp takes mean and squares of its own part; one exchange merges the parts.
/// scratch: float [k], where a thread reads back what it wrote itself; stats: float2 [warps], and after kRowMaxWarps of them the
/// warps' partial sums. Returns as row_stage_raw.
template <class Format>
__device__ inline float row_stage_norm(const SkinnyArgs& a, typename Format::X* xs, float* scratch,
                                       float2* stats, const typename Format::T* weights, int row) {
  using T = typename Format::T;
  constexpr int kV = kVec<T>;
  const int step = static_cast<int>(blockDim.x) * kV;
  const int first = static_cast<int>(threadIdx.x) * kV;
  const int k = a.plan.k;
  RowPart<T> part;
  part.begin(a, row);
#pragma unroll 1
  for (int i = first; i < k; i += step) {
    float v[kV];
    row_load<T>(a, row * a.ldx + i, v);
    part.add(v);
#pragma unroll
    for (int j = 0; j < kV; j += 4)
      *reinterpret_cast<float4*>(scratch + i + j) = make_float4(v[j], v[j + 1], v[j + 2], v[j + 3]);
  }
  part.end(a, stats);
  cp_async_wait<0>();
  __syncthreads();
  const RowNorm norm = row_norm(a, stats);
  const bool keep =
      a.norm_out != nullptr && static_cast<int>(blockIdx.x) == row % static_cast<int>(gridDim.x);
  T* out = static_cast<T*>(a.norm_out) + static_cast<int64_t>(row) * k;
  [[maybe_unused]] uint32_t max = 0;  // bits of the largest magnitude
#pragma unroll 1
  for (int i = first; i < k; i += step) {
    const uint4 packed = row_normed<T>(a, scratch, weights, norm, i);
    if (keep) *reinterpret_cast<uint4*>(out + i) = packed;
    if constexpr (Format::kQuantises) {
      float v[kV];
      unpack_words<T>(packed, v);
#pragma unroll
      for (int j = 0; j < kV; ++j) {
        max = ::max(max, magnitude_bits(v[j]));
        scratch[i + j] = v[j];
      }
    } else {
      store_piece<Format, kWarp>(xs, i, packed);
    }
  }
  if constexpr (!Format::kPlain) row_stage_rest<Format>(a, xs);
  if constexpr (Format::kQuantises) {
    max = row_block_max(max, reinterpret_cast<uint32_t*>(stats + kRowMaxWarps));
    const RowQuantiser q = row_quantiser(float_of_bits(max), Format::kLargest);
#pragma unroll 1
    for (int i = first; i < k; i += step) {
#pragma unroll
      for (int j = 0; j < kV; j += 4)
        Format::store_codes(xs + staged_place<Format, kWarp>(i) + j,
                            *reinterpret_cast<const float4*>(scratch + i + j), q);
    }
    return q.scale;
  }
  return 1.0f;
}

}  // namespace tandem::kernels
