// One pair of row (or source) and head as a warp of the decode kernels on tensor cores meets it: where its keys, its query and
// this step's token are.
#pragma once

#include "kernels/attention/decode/decode_mma.cuh"

namespace tandem::kernels::decode {

/// Tokens already in the cache; cross-attention has no position.
template <typename S>
__device__ inline int read_position(const DecodeArgs& a) {
  if constexpr (!S::kSelf) return -1;
  const int position = *a.position;
  if (position < 0 || position >= a.capacity) __trap();
  return position;
}

struct SourceKeys {
  int first_token = 0;
  int length = 0;
};
template <typename S>
__device__ inline SourceKeys source_keys(const DecodeArgs& a, int source, int position) {
  if constexpr (S::kSelf) return {0, position + 1};
  const int first = a.offsets[source];
  return {first, a.offsets[source + 1] - first};
}

template <typename S>
__device__ inline int64_t token_bytes(const DecodeArgs& a) {
  return S::kBytes * (S::kSelf && S::kExact ? S::kSteps * 32 : a.token_stride);
}
__device__ inline int64_t head_at(const DecodeArgs& a, const DecodeTask& t, int first_token) {
  return first_token * a.token_stride + t.head * a.head_stride;
}

/// The pair's keys below `end`.
template <typename S>
__device__ inline Stream pair_stream(const DecodeArgs& a, const DecodeTask& t, int first_token, int end,
                                     int position, int lane) {
  const bool indirect = S::kSelf && a.ancestry != nullptr;
  const int64_t from = S::kBytes * (head_at(a, t, first_token) + (indirect ? 0 : t.source * a.source_stride));
  const int64_t scales_from = (first_token + lane) * a.scale_token_stride + t.head * a.scale_head_stride +
                              (indirect ? 0 : t.source * a.scale_source_stride);
  return {.k = static_cast<const char*>(a.k) + from + score_fragment_key(lane) * token_bytes<S>(a) +
               S::kChunkBytes * S::key_chunk(lane, 0),
          .v = static_cast<const char*>(a.v) + from + value_fragment_key(lane, 0) * token_bytes<S>(a) +
               S::kChunkBytes * S::value_chunk(lane, 0),
          .ancestry = indirect ? a.ancestry + static_cast<int64_t>(t.source) * a.capacity : nullptr,
          .source_bytes = S::kBytes * a.source_stride,
          .token_bytes = token_bytes<S>(a),
          .limit = S::kSelf ? min(end, position) : end,
          .chunks = a.head_dim / 8,
          .k_scales = a.k_scales + scales_from,
          .v_scales = a.v_scales + scales_from,
          .scale_source_stride = a.scale_source_stride,
          .scale_token_stride = a.scale_token_stride};
}

/// As it lies in memory; to_product() makes it what the products take.
template <typename S>
__device__ inline void load_query(Query<S>& q, const DecodeArgs& a, const DecodeTask& t, const Stream& stream,
                                  int lane) {
  const auto* query =
      static_cast<const typename S::T*>(a.q) + (t.first_row + (lane >> 2)) * a.q_stride + t.head * a.head_dim;
#pragma unroll
  for (int j = 0; j < S::kSteps; ++j) {
    const bool exists = (lane >> 2) < t.rows && key_chunk_exists<S>(stream, lane, j);
    q.chunks[j] = exists ? load_once(query + 8 * S::key_chunk(lane, j)) : make_uint4(0, 0, 0, 0);
  }
}

/// Scores are multiplied with it.
template <typename S>
__device__ inline float score_scale(const DecodeArgs& a, const Query<S>& q) {
  return S::kCodes ? q.factor * (a.scale * kLog2E) : a.scale * kLog2E;
}

/// The distance table of the pair's head, or null.
template <typename S>
__device__ inline const float* head_bias(const DecodeArgs& a, const DecodeTask& t) {
  if constexpr (!S::kSelf) return nullptr;
  return a.bias == nullptr ? nullptr : a.bias + t.head * (2 * a.max_distance + 1);
}

/// Self-attention: this step's key and value as append_token() takes them, requested with the query, so that the cache's last tile
/// does not wait for them.
__device__ inline uint4 load_token(const DecodeArgs& a, const DecodeTask& t, int lane) {
  const int chunk = lane % kTokenLanes;
  if (chunk >= a.head_dim / 8) return make_uint4(0, 0, 0, 0);
  const int64_t at = 2 * (t.first_row * a.q_stride + t.head * a.head_dim) + 16 * chunk;
  return load_once(static_cast<const char*>(lane < kTokenLanes ? a.new_k : a.new_v) + at);
}

/// The tile in which `position` lies, of keys below `end`, takes in this step's token.
template <typename S>
__device__ inline void append(Tile<S>& x, const DecodeArgs& a, const DecodeTask& t, const Stream& stream,
                              const uint4& token, int position, int tile, int end, int lane) {
  if (position < tile || position >= min(tile + S::kKeys, end)) return;
  const int64_t to =
      S::kBytes * (head_at(a, t, 0) + t.source * a.source_stride) + position * token_bytes<S>(a);
  const int64_t scale_to =
      t.source * a.scale_source_stride + t.head * a.scale_head_stride + position * a.scale_token_stride;
  append_token(x, stream, position - tile,
               {.cache_k = static_cast<char*>(a.k) + to,
                .cache_v = static_cast<char*>(a.v) + to,
                .k_scale = a.k_scales + scale_to,
                .v_scale = a.v_scales + scale_to},
               token, a.halves, lane);
}

}  // namespace tandem::kernels::decode
