// Attention of one decode step: one new query a row, against the row's own cache (self, with the append of this step's
// key and value) or against the encoder's keys and values (cross). Both stream K/V once, from global memory straight into
// registers. Where there are few pairs of row and head, the length is split over warps of a block or of a cluster whose partial
// results are combined in a fixed order; where there are many, a warp has one or several to itself. So there is no workspace, no
// atomic, no second kernel, and every run gives the same bits. The grid depends on none of
// the device-side values (position, lengths, finished), so that one captured graph serves every step.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <optional>

#include "harness/base/tensor.h"

namespace tandem::kernels {

struct DecodeSelfAttentionParams {
  /// of q, k, v, out, and of both caches unless kv_dtype says otherwise: kF32 (also for tf32), kF16 or kBF16
  DType dtype = DType::kBF16;
  /// kF8 or kI8, where dtype is of 16 bits: the caches hold codes with one scale a head and token, as tandem::quantise_row
  /// makes them of k and v. None, or dtype: they are of dtype.
  std::optional<DType> kv_dtype = {};
  /// [batch, heads * head_dim], rows qkv_stride apart; 16-byte aligned, as all below
  const void* q = nullptr;
  const void* k = nullptr;    ///< [batch, heads * head_dim], this step's key, rows qkv_stride apart
  const void* v = nullptr;    ///< [batch, heads * head_dim], this step's value, rows qkv_stride apart
  int64_t qkv_stride = 0;     ///< elements; 3 * inner for a packed projection [batch, 3 * inner]
  void* k_cache = nullptr;    ///< [batch, heads, capacity, head_dim]; row `position` is written
  void* v_cache = nullptr;    ///< [batch, heads, capacity, head_dim]; row `position` is written
  float* k_scales = nullptr;  ///< [batch, heads, capacity]: of codes; written and read like k_cache
  float* v_scales = nullptr;  ///< [batch, heads, capacity]
  void* out = nullptr;        ///< [batch, heads * head_dim], rows out_stride apart
  int64_t out_stride = 0;     ///< elements
  /// device [1]: tokens already in the cache, 0 at the first step; the same for all rows; below capacity (the
  /// kernel traps otherwise)
  const int32_t* position = nullptr;
  /// device [batch] or null; a row with a non-zero flag reads and appends no K/V and its output is zeros
  const int32_t* finished = nullptr;
  /// device [batch, capacity] or null (every row reads its own): beam search's table; token t < position of row r
  /// is read from cache row ancestry[r][t]
  const int32_t* ancestry = nullptr;
  /// [heads, 2 * max_distance + 1] from launch_distance_bias with bidirectional false, or null
  const float* distance_bias = nullptr;
  int max_distance = 0;
  int batch = 0;
  int heads = 0;
  int head_dim = 0;      ///< a multiple of 8, 8 to 128
  int capacity = 0;      ///< of the cache
  float scale = 0.125f;  ///< scores are scale * q.k (+ bias)
  /// Warps that share a row and head: 1, 2, 4 (a block), 8, 16 or 32 (a cluster); 0 lets decode_workers() choose.
  int workers = 0;
  /// Programmatic dependent launch. Without kv_ready nothing is read before the previous kernel has ended.
  bool dependent = false;
  /// With `dependent`: the cache below `position`, *position, finished and ancestry were complete before the chain of
  /// dependent launches began (one graph a step: they were written by an earlier launch of the graph). The first K/V are
  /// then requested before the previous kernel (which makes q, k, v) has ended.
  bool kv_ready = false;
};

/// out[r] = softmax(scale * q[r] . K[r] + bias) V[r] over tokens 0 .. position, after writing k and v of this step into
/// the caches. Throws UsageError for a field outside what is allowed, CudaError for a launch that failed.
void launch_decode_self_attention(const DecodeSelfAttentionParams& params, cudaStream_t stream);

/// Element (token, head, i) of k and v lies at token * token_stride + head * head_stride + i.
///   one projection a layer, [tokens, 2 * inner]:              token_stride 2 * inner, head_stride head_dim, v = k + inner
///   all layers at once, [tokens, layers * 2 * inner]:         token_stride layers * 2 * inner, head_stride head_dim
///   head-major, [heads, tokens, head_dim]:                    token_stride head_dim, head_stride tokens * head_dim
/// In the first two a head's share of a token is head_dim elements (128 bytes at 64 x 2): whole cache lines, and the
/// blocks of one source's heads are neighbours in the grid, so that they walk the same DRAM pages together.
struct DecodeCrossAttentionParams {
  /// of q, out, and of k and v unless kv_dtype says otherwise: kF32 (also for tf32), kF16 or kBF16
  DType dtype = DType::kBF16;
  /// kF8 or kI8, where dtype is of 16 bits: k and v are codes with one scale a head and token. None, or dtype: of dtype.
  std::optional<DType> kv_dtype = {};
  /// [sources * rows_per_source, heads * head_dim], rows q_stride apart; 16-byte aligned, as all below; rows
  /// s * rows_per_source ... belong to source s
  const void* q = nullptr;
  int64_t q_stride = 0;     ///< elements
  const void* k = nullptr;  ///< packed source tokens, see above
  const void* v = nullptr;
  int64_t token_stride = 0;  ///< elements, of k and v
  int64_t head_stride = 0;   ///< elements, of k and v
  /// The scale of (token, head) lies at token * scale_token_stride + head * scale_head_stride. [heads, tokens]
  /// (scale_token_stride 1) lets a warp read the scales of 32 tokens as one line; [tokens, heads] costs a sector each.
  const float* k_scales = nullptr;
  const float* v_scales = nullptr;
  int64_t scale_token_stride = 0;  ///< floats
  int64_t scale_head_stride = 0;   ///< floats
  /// device [sources + 1]: source s is tokens offsets[s] .. offsets[s + 1]
  const int32_t* offsets = nullptr;
  void* out = nullptr;     ///< [sources * rows_per_source, heads * head_dim], rows out_stride apart
  int64_t out_stride = 0;  ///< elements
  /// device [sources * rows_per_source] or null; a finished row's output is zeros; K/V of a source whose rows are all
  /// finished are not read
  const int32_t* finished = nullptr;
  int sources = 0;
  /// beams; up to 8 share one pass over the source's K/V (fp32: 4), more take further passes
  int rows_per_source = 1;
  int heads = 0;
  int head_dim = 0;           ///< a multiple of 8, 8 to 128
  int max_source_length = 0;  ///< at least the longest source; chooses the number of workers, nothing else
  float scale = 0.125f;       ///< scores are scale * q.k; never a position bias
  /// Warps that share a source and head: 1, 2, 4 (a block), 8, 16 or 32 (a cluster); 0 lets decode_workers() choose.
  int workers = 0;
  bool dependent = false;  ///< programmatic dependent launch
  /// With `dependent`: k, v, offsets and finished were complete before the chain of dependent launches began; the
  /// first K/V are then requested before q is ready.
  bool kv_ready = false;
};

/// out[r] = softmax(scale * q[r] . K[source of r]) V[source of r]; zeros for a source of length 0.
/// Throws UsageError for a field outside what is allowed, CudaError for a launch that failed.
void launch_decode_cross_attention(const DecodeCrossAttentionParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
