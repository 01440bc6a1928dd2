// Encoder attention for fp16 and bf16 on the tensor cores of sm_80 and later: FlashAttention-2 (Dao 2023). A block owns
// 64 queries of one head, a warp 16 of them; keys and values pass through shared memory in double-buffered tiles of 64.
#include "harness/base/cuda_check.h"
#include "kernels/attention/encoder_bias.cuh"
#include "kernels/attention/encoder_kernel.h"
#include "kernels/common/device.cuh"
#include "kernels/common/launch.h"
#include "kernels/common/memory_ptx.cuh"

namespace tandem::kernels {
namespace {

constexpr int kQueries = 64;
constexpr int kKeys = 64;
constexpr int kWarps = kQueries / 16;
constexpr int kThreads = kWarps * kWarp;
static_assert(kBiasMargin >= kQueries + kKeys - 2);

struct MmaArgs {
  const void* q;
  const void* k;
  const void* v;
  void* out;
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

/// Byte offset of a 16-byte chunk in a tile of rows of Dim elements.
template <int Dim>
__device__ inline uint32_t chunk_at(int row, int chunk) {
  return static_cast<uint32_t>(row * (Dim * 2) + 16 * swizzled_chunk(row, chunk, Dim / 8));
}

/// Rows first .. first + 63 of one head into a tile; zeros beyond `length` rows and beyond the head's own chunks.
template <int Dim>
__device__ inline void load_tile(uint32_t tile, const char* base, int64_t stride_bytes, int first, int length,
                                 int chunks, int thread) {
  constexpr int kChunks = Dim / 8;
#pragma unroll
  for (int i = 0; i < 64 * kChunks / kThreads; ++i) {
    const int index = thread + i * kThreads;
    const int row = index / kChunks;
    const int chunk = index % kChunks;
    const bool valid = first + row < length && chunk < chunks;
    const char* from = valid ? base + (first + row) * stride_bytes + 16 * chunk : base;
    cp_async_16(tile + chunk_at<Dim>(row, chunk), from, valid ? 16 : 0);
  }
}

/// Scores of 16 queries and 64 keys: s[n] holds keys 8 n + 2 t, + 1 of query g (s[n][0..1]) and g + 8 (s[n][2..3]).
template <typename T, int Dim>
__device__ inline void product_scores(float (&s)[kKeys / 8][4], const uint32_t (&q)[Dim / 16][4],
                                      uint32_t tile, int lane) {
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[n][i] = 0.0f;
  }
#pragma unroll
  for (int j = 0; j < Dim / 16; ++j) {
#pragma unroll
    for (int n = 0; n < kKeys / 8; n += 2) {
      uint32_t b[4];
      ldmatrix_x4(b, tile + chunk_at<Dim>(8 * n + 8 * (lane >> 4) + (lane & 7), 2 * j + ((lane >> 3) & 1)));
      mma_16816<T>(s[n], q[j][0], q[j][1], q[j][2], q[j][3], b[0], b[1]);
      mma_16816<T>(s[n + 1], q[j][0], q[j][1], q[j][2], q[j][3], b[2], b[3]);
    }
  }
}

template <typename T, int Dim>
__device__ inline void product_values(float (&o)[Dim / 8][4], const float (&p)[kKeys / 8][4], uint32_t tile,
                                      int lane) {
#pragma unroll
  for (int j = 0; j < kKeys / 16; ++j) {
    const uint32_t a0 = pack2<T>(p[2 * j][0], p[2 * j][1]);
    const uint32_t a1 = pack2<T>(p[2 * j][2], p[2 * j][3]);
    const uint32_t a2 = pack2<T>(p[2 * j + 1][0], p[2 * j + 1][1]);
    const uint32_t a3 = pack2<T>(p[2 * j + 1][2], p[2 * j + 1][3]);
#pragma unroll
    for (int n = 0; n < Dim / 8; n += 2) {
      uint32_t b[4];
      ldmatrix_x4_transposed(b, tile + chunk_at<Dim>(16 * j + (lane & 15), n + (lane >> 4)));
      mma_16816<T>(o[n], a0, a1, a2, a3, b[0], b[1]);
      mma_16816<T>(o[n + 1], a0, a1, a2, a3, b[2], b[3]);
    }
  }
}

/// To units of log 2, with the bias of a near tile: near is the distance of key 2 t and query g in the extended table.
__device__ inline void scale_and_bias(float (&s)[kKeys / 8][4], float scale, const float* near) {
  // Query g + 8 at keys 8 n is at the distance of query g at keys 8 (n - 1).
  float before0 = near[-8];
  float before1 = near[-7];
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n) {
    const float here0 = near[8 * n];
    const float here1 = near[8 * n + 1];
    s[n][0] = fmaf(s[n][0], scale, here0);
    s[n][1] = fmaf(s[n][1], scale, here1);
    s[n][2] = fmaf(s[n][2], scale, before0);
    s[n][3] = fmaf(s[n][3], scale, before1);
    before0 = here0;
    before1 = here1;
  }
}
__device__ inline void scale_and_bias(float (&s)[kKeys / 8][4], float scale, float constant) {
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[n][i] = fmaf(s[n][i], scale, constant);
  }
}

template <typename T, int Dim>
__global__ void __launch_bounds__(kThreads, Dim == 128 ? 2 : 3) encoder_mma_kernel(const MmaArgs a) {
  extern __shared__ __align__(128) unsigned char shared[];
  constexpr int kTileBytes = 64 * Dim * 2;
  pdl_launch_dependents();
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
  const int warp = thread / kWarp;
  const int head = static_cast<int>(blockIdx.y);
  float* const bias = reinterpret_cast<float*>(shared + 5 * kTileBytes);
  if (a.distance_bias != nullptr) fill_bias(bias, a.distance_bias, head, a.max_distance, thread, kThreads);
  pdl_wait();

  const int first_token = a.offsets[blockIdx.z];
  const int length = a.offsets[blockIdx.z + 1] - first_token;
  const int q0 = static_cast<int>(blockIdx.x) * kQueries;
  if (q0 >= length) return;

  const int chunks = a.head_dim / 8;
  const int64_t head_at = static_cast<int64_t>(head) * a.head_dim;
  const char* q =
      reinterpret_cast<const char*>(static_cast<const T*>(a.q) + first_token * a.q_stride + head_at);
  const char* k =
      reinterpret_cast<const char*>(static_cast<const T*>(a.k) + first_token * a.k_stride + head_at);
  const char* v =
      reinterpret_cast<const char*>(static_cast<const T*>(a.v) + first_token * a.v_stride + head_at);
  const uint32_t q_tile = shared_address(shared);
  const uint32_t kv_tiles = q_tile + kTileBytes;  // stage 0: keys, values; stage 1: keys, values

  load_tile<Dim>(q_tile, q, a.q_stride * 2, q0, length, chunks, thread);
  load_tile<Dim>(kv_tiles, k, a.k_stride * 2, 0, length, chunks, thread);
  load_tile<Dim>(kv_tiles + kTileBytes, v, a.v_stride * 2, 0, length, chunks, thread);
  cp_async_commit();

  uint32_t qf[Dim / 16][4];
  float o[Dim / 8][4] = {};
  float maximum[2] = {-INFINITY, -INFINITY};
  float total[2] = {0.0f, 0.0f};
  const float scale = a.scale * kLog2E;
  // With a bias the scores are scaled when it is added, without one only inside the exponential.
  const float late_scale = a.distance_bias != nullptr ? 1.0f : scale;
  const int row = q0 + 16 * warp + (lane >> 2);  // and row + 8
  const int column = 2 * (lane & 3);
  const int tiles = key_tiles(length, q0, kQueries, kKeys, a.causal);

  for (int i = 0; i < tiles; ++i) {
    const int k0 = i * kKeys;
    const uint32_t stage = kv_tiles + (i & 1) * 2 * kTileBytes;
    cp_async_wait<0>();
    __syncthreads();  // tile i is here, and every warp is done with tile i - 1
    if (i + 1 < tiles) {
      const uint32_t next = kv_tiles + ((i + 1) & 1) * 2 * kTileBytes;
      load_tile<Dim>(next, k, a.k_stride * 2, k0 + kKeys, length, chunks, thread);
      load_tile<Dim>(next + kTileBytes, v, a.v_stride * 2, k0 + kKeys, length, chunks, thread);
      cp_async_commit();
    }
    if (i == 0) {
#pragma unroll
      for (int j = 0; j < Dim / 16; ++j) {
        ldmatrix_x4(qf[j], q_tile + chunk_at<Dim>(16 * warp + (lane & 15), 2 * j + (lane >> 4)));
      }
    }

    float s[kKeys / 8][4];
    product_scores<T, Dim>(s, qf, stage, lane);

    if (a.distance_bias != nullptr) {
      const BiasTile kind = bias_tile(q0, kQueries, k0, kKeys, a.max_distance);
      if (kind == BiasTile::kNear) {
        scale_and_bias(s, scale, bias + extended_bias_index(k0 + column - row, a.max_distance, kBiasMargin));
      } else {
        const int end = kind == BiasTile::kBefore ? 0 : extended_bias_size(a.max_distance, kBiasMargin) - 1;
        scale_and_bias(s, scale, bias[end]);
      }
    }
    if (tile_needs_mask(length, q0, k0, kKeys, a.causal)) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int key = k0 + 8 * n + column + (e & 1);
          if (key >= length || (a.causal && key > row + 8 * (e >> 1))) s[n][e] = -INFINITY;
        }
      }
    }

#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = maximum[half];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) top = fmaxf(top, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      // Key 0 is in the first tile and every query sees it: the maximum is finite from here on.
      const float offset = -top * late_scale;
      const float rescale = fast_exp2(fmaf(maximum[half], late_scale, offset));
      maximum[half] = top;
      float sum = 0.0f;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        s[n][2 * half] = fast_exp2(fmaf(s[n][2 * half], late_scale, offset));
        s[n][2 * half + 1] = fast_exp2(fmaf(s[n][2 * half + 1], late_scale, offset));
        sum += s[n][2 * half] + s[n][2 * half + 1];
      }
      total[half] = fmaf(total[half], rescale, sum);
#pragma unroll
      for (int n = 0; n < Dim / 8; ++n) {
        o[n][2 * half] *= rescale;
        o[n][2 * half + 1] *= rescale;
      }
    }
    product_values<T, Dim>(o, s, stage + kTileBytes, lane);
  }

  // Rows leave through the warp's own part of the query tile, so that they are stored 16 bytes at a time.
  __syncwarp();  // every lane has read its queries
  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
    total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
    inverse[half] = 1.0f / total[half];
  }
#pragma unroll
  for (int n = 0; n < Dim / 8; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int local = 16 * warp + (lane >> 2) + 8 * half;
      unsigned char* to = shared + chunk_at<Dim>(local, n) + 2 * column;
      *reinterpret_cast<uint32_t*>(to) =
          pack2<T>(o[n][2 * half] * inverse[half], o[n][2 * half + 1] * inverse[half]);
    }
  }
  __syncwarp();
  constexpr int kChunks = Dim / 8;
#pragma unroll
  for (int i = 0; i < 16 * kChunks / kWarp; ++i) {
    const int local = 16 * warp + (lane + i * kWarp) / kChunks;
    const int chunk = (lane + i * kWarp) % kChunks;
    if (q0 + local >= length || chunk >= chunks) continue;
    T* to = static_cast<T*>(a.out) + (first_token + q0 + local) * a.out_stride + head_at + 8 * chunk;
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(shared + chunk_at<Dim>(local, chunk));
  }
}

template <typename T, int Dim>
void launch_instance(const EncoderAttentionParams& p, cudaStream_t stream) {
  const MmaArgs args{.q = p.q,
                     .k = p.k,
                     .v = p.v,
                     .out = p.out,
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
  const size_t bytes = 5 * 64 * Dim * 2 + bias_shared_bytes(p);
  TANDEM_CUDA_CHECK(cudaFuncSetAttribute(
      encoder_mma_kernel<T, Dim>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  const dim3 grid(static_cast<unsigned>(ceil_div(p.max_source, kQueries)), static_cast<unsigned>(p.heads),
                  static_cast<unsigned>(p.batch));
  launch(encoder_mma_kernel<T, Dim>,
         {.grid = grid, .block = dim3(kThreads), .shared_bytes = bytes, .dependent = p.dependent}, stream,
         args);
}

template <typename T>
void launch_typed(const EncoderAttentionParams& p, cudaStream_t stream) {
  if (p.head_dim <= 32) return launch_instance<T, 32>(p, stream);
  if (p.head_dim <= 64) return launch_instance<T, 64>(p, stream);
  return launch_instance<T, 128>(p, stream);
}

}  // namespace

void launch_encoder_attention_mma(const EncoderAttentionParams& params, cudaStream_t stream) {
  if (params.dtype == DType::kF16) return launch_typed<__half>(params, stream);
  launch_typed<__nv_bfloat16>(params, stream);
}

}  // namespace tandem::kernels
