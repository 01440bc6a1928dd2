// Fused attention over packed, ragged sequences: every query of a sequence against the keys of the same sequence
// (encoder self-attention; with `causal`, a decoder's prefill). Scores never leave the chip. Online softmax in fp32 after
// Dao, "FlashAttention-2" (2023); the sm_90a path follows Shah et al., "FlashAttention-3" (2024).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "harness/base/tensor.h"

namespace tandem::kernels {

/// Element (token, head, i) of q, k, v and out lies at token * stride + head * head_dim + i. For a packed projection
/// qkv [tokens, 3 * inner]: q = qkv, k = qkv + inner, v = qkv + 2 * inner, all three strides 3 * inner.
struct EncoderAttentionParams {
  DType dtype = DType::kBF16;  ///< of q, k, v and out: kF32 (also for tf32), kF16 or kBF16
  /// [tokens, heads * head_dim], rows q_stride apart; 16-byte aligned, as k, v, out
  const void* q = nullptr;
  const void* k = nullptr;  ///< [tokens, heads * head_dim], rows k_stride apart
  const void* v = nullptr;  ///< [tokens, heads * head_dim], rows v_stride apart
  void* out = nullptr;      ///< [tokens, heads * head_dim], rows out_stride apart
  /// elements, at least heads * head_dim; every stride times its size is 16-byte aligned
  int64_t q_stride = 0;
  int64_t k_stride = 0;
  int64_t v_stride = 0;
  int64_t out_stride = 0;
  /// device [batch + 1]: sequence b is tokens offsets[b] .. offsets[b + 1]
  const int32_t* offsets = nullptr;
  int batch = 0;
  int64_t tokens = 0;  ///< rows of q, k, v; at least offsets[batch]
  /// at least the longest sequence: sizes the grid. Tokens beyond it would not be computed
  int max_source = 0;
  int heads = 0;
  int head_dim = 0;                      ///< a multiple of 8, 8 to 128; 64 and 128 are the fast ones
  float scale = 0.125f;                  ///< scores are scale * q.k (+ bias)
  const float* distance_bias = nullptr;  ///< [heads, 2 * max_distance + 1] from launch_distance_bias, or null
  int max_distance = 0;                  ///< of distance_bias, at most kMaxDistance
  bool causal = false;                   ///< a query sees keys at or before its own position only
  bool dependent = false;  ///< programmatic dependent launch; distance_bias must be older than that chain
};

/// Reads no key or value of another sequence into a result (whatever bits lie there). Chooses among the sm_90a, the
/// tensor-core (sm_80 and later, or TANDEM_ARCH=sm80) and the fp32 kernel. A sequence of length 0 is allowed.
/// Throws UsageError for a field outside what is allowed, CudaError for a launch that failed.
void launch_encoder_attention(const EncoderAttentionParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
