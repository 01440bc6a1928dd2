// Encoder attention for fp32 (and tf32, which keeps fp32 here): the same online softmax on the CUDA cores. A block owns
// 64 queries of one head; 16 x 16 threads hold 4 queries x 2 keys of a 64 x 32 tile of scores each.
#include "harness/base/cuda_check.h"
#include "kernels/attention/encoder_bias.cuh"
#include "kernels/attention/encoder_kernel.h"
#include "kernels/common/device.cuh"
#include "kernels/common/launch.h"

namespace tandem::kernels {
namespace {

constexpr int kQueries = 64;
constexpr int kKeys = 32;
constexpr int kThreads = 256;
constexpr int kRows = 4;                // queries of a thread: 4 ty .. 4 ty + 3
constexpr int kProbStride = kKeys + 4;  // floats; keeps 16-byte alignment and spreads the rows over the banks
static_assert(kBiasMargin >= kQueries + kKeys - 2);

template <int Dim>
inline constexpr int kRowStride =
    Dim + 4;  // floats; eight consecutive rows at one column hit different banks
template <int Dim>
inline constexpr int kTileFloats = (kQueries + 2 * kKeys) * kRowStride<Dim> + kQueries* kProbStride;

struct F32Args {
  const float* q;
  const float* k;
  const float* v;
  float* out;
  const int32_t* offsets;
  const float* distance_bias;
  int64_t q_stride;
  int64_t k_stride;
  int64_t v_stride;
  int64_t out_stride;
  int max_distance;
  int head_dim;
  float scale;
  bool causal;
};

/// Rows first .. first + Rows - 1 of one head; zeros beyond the sequence and beyond head_dim.
template <int Dim, int Rows>
__device__ inline void load_tile(float* tile, const float* base, int64_t stride, int first, int length,
                                 int head_dim, int thread) {
#pragma unroll
  for (int i = thread; i < Rows * Dim / 4; i += kThreads) {
    const int row = i / (Dim / 4);
    const int element = 4 * (i % (Dim / 4));
    float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (first + row < length && element < head_dim) {
      x = *reinterpret_cast<const float4*>(base + (first + row) * stride + element);
    }
    *reinterpret_cast<float4*>(tile + row * kRowStride<Dim> + element) = x;
  }
}

__device__ inline float4 at4(const float* p) {
  return *reinterpret_cast<const float4*>(p);
}

template <int Dim>
__global__ void __launch_bounds__(kThreads, 2) encoder_f32_kernel(const F32Args a) {
  extern __shared__ __align__(16) float tiles[];
  pdl_launch_dependents();
  const int thread = static_cast<int>(threadIdx.x);
  const int tx = thread % 16;
  const int ty = thread / 16;
  const int head = static_cast<int>(blockIdx.y);
  float* const bias = tiles + kTileFloats<Dim>;
  if (a.distance_bias != nullptr) fill_bias(bias, a.distance_bias, head, a.max_distance, thread, kThreads);
  pdl_wait();

  const int first_token = a.offsets[blockIdx.z];
  const int length = a.offsets[blockIdx.z + 1] - first_token;
  const int q0 = static_cast<int>(blockIdx.x) * kQueries;
  if (q0 >= length) return;

  const int64_t head_at = static_cast<int64_t>(head) * a.head_dim;
  const float* const k = a.k + first_token * a.k_stride + head_at;
  const float* const v = a.v + first_token * a.v_stride + head_at;
  float* const qs = tiles;
  float* const ks = qs + kQueries * kRowStride<Dim>;
  float* const vs = ks + kKeys * kRowStride<Dim>;
  float* const ps = vs + kKeys * kRowStride<Dim>;
  load_tile<Dim, kQueries>(qs, a.q + first_token * a.q_stride + head_at, a.q_stride, q0, length, a.head_dim,
                           thread);

  constexpr int kParts = Dim / 64;  // a thread owns elements 4 tx .. 4 tx + 3 of every 64
  float4 o[kRows][kParts];
  float maximum[kRows];
  float total[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    maximum[r] = -INFINITY;
    total[r] = 0.0f;
#pragma unroll
    for (int c = 0; c < kParts; ++c) o[r][c] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  }
  const float scale = a.scale * kLog2E;
  const int count = key_tiles(length, q0, kQueries, kKeys, a.causal);

  for (int tile = 0; tile < count; ++tile) {
    const int k0 = tile * kKeys;
    __syncthreads();  // everyone is done with the previous keys and values
    load_tile<Dim, kKeys>(ks, k, a.k_stride, k0, length, a.head_dim, thread);
    load_tile<Dim, kKeys>(vs, v, a.v_stride, k0, length, a.head_dim, thread);
    __syncthreads();

    float s[kRows][2] = {};
#pragma unroll 4
    for (int d = 0; d < Dim; d += 4) {
      const float4 key0 = at4(ks + tx * kRowStride<Dim> + d);
      const float4 key1 = at4(ks + (tx + 16) * kRowStride<Dim> + d);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float4 query = at4(qs + (kRows * ty + r) * kRowStride<Dim> + d);
        s[r][0] = fmaf(query.x, key0.x,
                       fmaf(query.y, key0.y, fmaf(query.z, key0.z, fmaf(query.w, key0.w, s[r][0]))));
        s[r][1] = fmaf(query.x, key1.x,
                       fmaf(query.y, key1.y, fmaf(query.z, key1.z, fmaf(query.w, key1.w, s[r][1]))));
      }
    }

    const BiasTile kind = bias_tile(q0, kQueries, k0, kKeys, a.max_distance);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int query = q0 + kRows * ty + r;
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int key = k0 + tx + 16 * c;
        float added = 0.0f;
        if (a.distance_bias != nullptr) {
          int index = extended_bias_index(key - query, a.max_distance, kBiasMargin);
          if (kind == BiasTile::kBefore) index = 0;
          if (kind == BiasTile::kAfter) index = extended_bias_size(a.max_distance, kBiasMargin) - 1;
          added = bias[index];
        }
        const bool seen = key < length && !(a.causal && key > query);
        s[r][c] = seen ? fmaf(s[r][c], scale, added) : -INFINITY;
      }
      float top = fmaxf(maximum[r], fmaxf(s[r][0], s[r][1]));
#pragma unroll
      for (int m = 8; m > 0; m >>= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, m));
      // Key 0 is in the first tile and every query sees it: the maximum is finite from here on.
      const float rescale = fast_exp2(maximum[r] - top);
      maximum[r] = top;
      const float p0 = fast_exp2(s[r][0] - top);
      const float p1 = fast_exp2(s[r][1] - top);
      total[r] = fmaf(total[r], rescale, p0 + p1);
      ps[(kRows * ty + r) * kProbStride + tx] = p0;
      ps[(kRows * ty + r) * kProbStride + tx + 16] = p1;
#pragma unroll
      for (int c = 0; c < kParts; ++c) {
        o[r][c] =
            make_float4(o[r][c].x * rescale, o[r][c].y * rescale, o[r][c].z * rescale, o[r][c].w * rescale);
      }
    }
    __syncwarp();  // a query's probabilities are written and read by the same half warp

#pragma unroll 2
    for (int j = 0; j < kKeys; j += 4) {
      float4 p[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) p[r] = at4(ps + (kRows * ty + r) * kProbStride + j);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
#pragma unroll
        for (int c = 0; c < kParts; ++c) {
          const float4 value = at4(vs + (j + e) * kRowStride<Dim> + 64 * c + 4 * tx);
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            const float w = e == 0 ? p[r].x : e == 1 ? p[r].y : e == 2 ? p[r].z : p[r].w;
            o[r][c].x = fmaf(w, value.x, o[r][c].x);
            o[r][c].y = fmaf(w, value.y, o[r][c].y);
            o[r][c].z = fmaf(w, value.z, o[r][c].z);
            o[r][c].w = fmaf(w, value.w, o[r][c].w);
          }
        }
      }
    }
    __syncwarp();
  }

#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int m = 8; m > 0; m >>= 1) total[r] += __shfl_xor_sync(0xffffffffu, total[r], m);
    const int query = q0 + kRows * ty + r;
    if (query >= length) continue;
    const float inverse = 1.0f / total[r];
#pragma unroll
    for (int c = 0; c < kParts; ++c) {
      const int element = 64 * c + 4 * tx;
      if (element >= a.head_dim) continue;
      float* to = a.out + (first_token + query) * a.out_stride + head_at + element;
      *reinterpret_cast<float4*>(to) =
          make_float4(o[r][c].x * inverse, o[r][c].y * inverse, o[r][c].z * inverse, o[r][c].w * inverse);
    }
  }
}

template <int Dim>
void launch_instance(const EncoderAttentionParams& p, cudaStream_t stream) {
  const F32Args args{.q = static_cast<const float*>(p.q),
                     .k = static_cast<const float*>(p.k),
                     .v = static_cast<const float*>(p.v),
                     .out = static_cast<float*>(p.out),
                     .offsets = p.offsets,
                     .distance_bias = p.distance_bias,
                     .q_stride = p.q_stride,
                     .k_stride = p.k_stride,
                     .v_stride = p.v_stride,
                     .out_stride = p.out_stride,
                     .max_distance = p.max_distance,
                     .head_dim = p.head_dim,
                     .scale = p.scale,
                     .causal = p.causal};
  const size_t bytes = sizeof(float) * static_cast<size_t>(kTileFloats<Dim>) + bias_shared_bytes(p);
  TANDEM_CUDA_CHECK(cudaFuncSetAttribute(encoder_f32_kernel<Dim>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(bytes)));
  const dim3 grid(static_cast<unsigned>(ceil_div(p.max_source, kQueries)), static_cast<unsigned>(p.heads),
                  static_cast<unsigned>(p.batch));
  launch(encoder_f32_kernel<Dim>,
         {.grid = grid, .block = dim3(kThreads), .shared_bytes = bytes, .dependent = p.dependent}, stream,
         args);
}

}  // namespace

void launch_encoder_attention_f32(const EncoderAttentionParams& params, cudaStream_t stream) {
  if (params.head_dim <= 64) return launch_instance<64>(params, stream);
  launch_instance<128>(params, stream);
}

}  // namespace tandem::kernels
