// Keys and values of the decode kernel on tensor cores: how a tile of them goes from global memory straight into fragments,
// in 16 bits or as 8-bit codes, and how this step's token joins the cache.
#pragma once

#include "kernels/attention/decode/decode_kernel.cuh"
#include "kernels/common/codes.cuh"

namespace tandem::kernels::decode {

/// Eight neighbouring elements of a key or a value, a chunk: as memory holds them, and as four words of what the products
/// take.
template <typename T>
struct PlainElements {
  using Chunk = uint4;
  using Product = T;
  static constexpr bool kCodes = false;
  __device__ static Chunk load(const void* p) { return load_once(p); }
  __device__ static Chunk zeros() { return make_uint4(0, 0, 0, 0); }
  __device__ static uint4 operand(const Chunk& chunk) { return chunk; }
};
/// Codes are small integers and halves hold them exactly, so the products are of halves.
template <DType Code_>
struct CodeElements {
  using Chunk = uint2;
  using Product = __half;
  static constexpr bool kCodes = true;
  static constexpr DType kCode = Code_;
  __device__ static Chunk load(const void* p) { return load_once_8(p); }
  __device__ static Chunk zeros() { return make_uint2(0, 0); }
  __device__ static uint4 operand(const Chunk& chunk) {
    const uint2 first = decode_4_halves<kCode>(chunk.x);
    const uint2 second = decode_4_halves<kCode>(chunk.y);
    return make_uint4(first.x, first.y, second.x, second.y);
  }
};

/// One head size (Exact: head_dim is 32 * Steps; else anything up to it) and its tiles. T: of queries and output. Steps:
/// chunks of a key that a lane loads.
template <typename T_, typename Elements_, int Steps_, bool Exact_, bool Self_>
struct Shape {
  using T = T_;
  using Elements = Elements_;
  using Chunk = typename Elements::Chunk;
  using Product = typename Elements::Product;
  static constexpr bool kCodes = Elements::kCodes;
  static constexpr int kChunkBytes = static_cast<int>(sizeof(Chunk));
  static constexpr int kBytes = kChunkBytes / 8;  // of an element
  static constexpr int kSteps = Steps_;
  static constexpr bool kExact = Exact_;
  static constexpr bool kSelf = Self_;
  // Of 16 keys: 8 KB of K/V in flight a warp, of codes 4 KB up to head_dim 64. A lane holds one key's scales.
  static constexpr int kGroups = kSteps == 4 && !kCodes ? 1 : 2;
  static constexpr int kKeys = 16 * kGroups;
  static constexpr int kTiles = 2 * kGroups;        // products of scores, eight keys each
  static constexpr int kBlocks = (kSteps + 1) / 2;  // of 64 elements of a value
  static constexpr int kMinBlocks = kSteps == 4 ? 2 : kCodes && !kSelf ? 4 : 3;
  // Where a pair has several warps: of a block, at most, and the blocks of those that a multiprocessor has registers for.
  static constexpr int kSplitWarps = kSteps == 4 && !kCodes ? kDecodeLongHeadWarps : kDecodeWarps;
  static constexpr int kSplitBlocks = kMinBlocks * kDecodeWarps / kSplitWarps;
  // Where a warp has pairs to itself: registers of a thread, and the warps that those of a multiprocessor are enough for: a quarter of it
  // holds a quarter of its registers, and a quarter of a block's warps.
  static constexpr int kPairRegisters =
      kSteps == 4 ? (kCodes && !kExact ? 200 : 192) : (kCodes && !kSelf ? 128 : 168);
  static constexpr int kPairWarps = 4 * (16384 / (kWarp * kPairRegisters));
  static_assert(kKeys <= kWarp);
  // Two chunks of codes are one load of 16 bytes.
  static constexpr bool kKeyPairs = kCodes && kExact && kSteps % 2 == 0;
  static constexpr bool kValuePairs = kCodes && kExact && kBlocks == 2;
  __device__ static int key_chunk(int lane, int step) { return score_fragment_chunk(lane, step, kKeyPairs); }
  __device__ static int value_chunk(int lane, int block) {
    return value_fragment_chunk(lane, block, kValuePairs);
  }
  __device__ static int result_element(int lane, int block, int i) {
    return value_result_element(lane, block, i, kValuePairs);
  }
};

template <typename S>
struct Tile {
  typename S::Chunk k[S::kTiles][S::kSteps];
  typename S::Chunk v[S::kGroups][4][S::kBlocks];
  float k_scale;  ///< of codes: lane i has key i's
  float v_scale;
};

/// Where this lane finds the keys of one (source, head).
struct Stream {
  const char* k;  ///< this lane's first chunk of its key of tile 0; of cache row 0 when `ancestry`
  const char* v;
  const int32_t* ancestry;  ///< of this row, or null
  int64_t source_bytes;
  int64_t token_bytes;
  int limit;              ///< keys at or beyond are not read: the warp's end, and the new token
  int chunks;             ///< of a head
  const float* k_scales;  ///< of codes: this lane's key of tile 0; of cache row 0 when `ancestry`
  const float* v_scales;
  int64_t scale_source_stride;
  int64_t scale_token_stride;
};

/// A lane holds a chunk of a key beyond the head: only where the head is narrower than the fragments.
template <typename S>
__device__ inline bool key_chunk_exists(const Stream& s, int lane, int step) {
  return S::kExact || S::key_chunk(lane, step) < s.chunks;
}
template <typename S>
__device__ inline bool value_chunk_exists(const Stream& s, int lane, int block) {
  return (S::kExact && S::kSteps >= 2) || S::value_chunk(lane, block) < s.chunks;
}

/// Lane i: the cache row that holds key tile + i (rows beyond the limit are never used).
__device__ inline int ancestor(const Stream& s, int tile, int lane) {
  return s.ancestry != nullptr && tile + lane < s.limit ? s.ancestry[tile + lane] : 0;
}

/// May the loads of a tile go without predicates?
template <typename S>
__device__ inline bool whole(const Stream& s, int tile) {
  return S::kExact && s.ancestry == nullptr && tile + S::kKeys <= s.limit;
}

/// A lane's key's scale.
__device__ inline float load_scale(const float* scales, const Stream& s, int tile, int ancestors, int lane) {
  if (tile + lane >= s.limit) return 0.0f;
  return load_once_4(scales + tile * s.scale_token_stride + ancestors * s.scale_source_stride);
}

/// Two chunks that are neighbours.
__device__ inline void load_pair(uint2& first, uint2& second, const char* at, bool read) {
  const uint4 both = read ? load_once(at) : make_uint4(0, 0, 0, 0);
  first = make_uint2(both.x, both.y);
  second = make_uint2(both.z, both.w);
}

/// This lane's chunks of one key, the first at `at`.
template <typename S>
__device__ inline void load_key(typename S::Chunk (&k)[S::kSteps], const Stream& s, const char* at, bool read,
                                int lane) {
  if constexpr (S::kKeyPairs) {
#pragma unroll
    for (int j = 0; j < S::kSteps; j += 2) load_pair(k[j], k[j + 1], at + 4 * S::kChunkBytes * j, read);
  } else {
#pragma unroll
    for (int j = 0; j < S::kSteps; ++j) {
      k[j] = read && key_chunk_exists<S>(s, lane, j) ? S::Elements::load(at + 4 * S::kChunkBytes * j)
                                                     : S::Elements::zeros();
    }
  }
}
/// The same of one key's value.
template <typename S>
__device__ inline void load_value(typename S::Chunk (&v)[S::kBlocks], const Stream& s, const char* at,
                                  bool read, int lane) {
  if constexpr (S::kValuePairs) {
    load_pair(v[0], v[1], at, read);
  } else {
#pragma unroll
    for (int jj = 0; jj < S::kBlocks; ++jj) {
      v[jj] = read && value_chunk_exists<S>(s, lane, jj) ? S::Elements::load(at + 8 * S::kChunkBytes * jj)
                                                         : S::Elements::zeros();
    }
  }
}

template <typename S>
__device__ inline void load_keys(Tile<S>& x, const Stream& s, int tile, int ancestors, int lane) {
  const char* p = s.k + tile * s.token_bytes;
  if constexpr (S::kCodes) x.k_scale = load_scale(s.k_scales, s, tile, ancestors, lane);
  if (whole<S>(s, tile)) {
#pragma unroll
    for (int u = 0; u < S::kTiles; ++u) load_key<S>(x.k[u], s, p + u * 8 * s.token_bytes, true, lane);
    return;
  }
#pragma unroll
  for (int u = 0; u < S::kTiles; ++u) {
    const int local = 8 * u + score_fragment_key(lane);
    const char* at = p + u * 8 * s.token_bytes;
    if constexpr (S::kSelf) {
      if (s.ancestry != nullptr) at += __shfl_sync(0xffffffffu, ancestors, local) * s.source_bytes;
    }
    load_key<S>(x.k[u], s, at, tile + local < s.limit, lane);
  }
}

template <typename S>
__device__ inline void load_values(Tile<S>& x, const Stream& s, int tile, int ancestors, int lane) {
  const char* p = s.v + tile * s.token_bytes;
  if constexpr (S::kCodes) x.v_scale = load_scale(s.v_scales, s, tile, ancestors, lane);
  if (whole<S>(s, tile)) {
#pragma unroll
    for (int m = 0; m < S::kGroups; ++m) {
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        load_value<S>(x.v[m][w], s, p + (16 * m + value_fragment_key(0, w)) * s.token_bytes, true, lane);
      }
    }
    return;
  }
#pragma unroll
  for (int m = 0; m < S::kGroups; ++m) {
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const int local = 16 * m + value_fragment_key(lane, w);
      const char* at = p + (16 * m + value_fragment_key(0, w)) * s.token_bytes;
      if constexpr (S::kSelf) {
        if (s.ancestry != nullptr) at += __shfl_sync(0xffffffffu, ancestors, local) * s.source_bytes;
      }
      load_value<S>(x.v[m][w], s, at, tile + local < s.limit, lane);
    }
  }
}

/// Where this step's token goes: one head's key and value.
struct NewToken {
  char* cache_k;
  char* cache_v;
  float* k_scale;  ///< of codes
  float* v_scale;
};
inline constexpr int kTokenLanes = kWarp / 2;  ///< chunks of the widest head

/// A warp's chunks as codes, by the largest magnitude of their half warp. Returns the scale.
template <typename S>
__device__ inline float to_codes(const uint4& raw, bool halves, uint2& codes) {
  float v[8];
  with_type<typename S::T>(halves, [&](auto element) { unpack<decltype(element)>(raw, v); });
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) largest = max(largest, magnitude_bits(v[i]));
#pragma unroll
  for (int m = kTokenLanes / 2; m > 0; m >>= 1)
    largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, m));
  const Divider divide(scale_of(largest, S::Elements::kCode));
  codes = encode_8<S::Elements::kCode>(divide, v);
  return divide.scale();
}

__device__ inline uint2 from_lane(const uint2& chunk, int lane) {
  return make_uint2(__shfl_sync(0xffffffffu, chunk.x, lane), __shfl_sync(0xffffffffu, chunk.y, lane));
}
__device__ inline uint4 from_lane(const uint4& chunk, int lane) {
  return make_uint4(__shfl_sync(0xffffffffu, chunk.x, lane), __shfl_sync(0xffffffffu, chunk.y, lane),
                    __shfl_sync(0xffffffffu, chunk.z, lane), __shfl_sync(0xffffffffu, chunk.w, lane));
}

/// Key `local` of the tile is this step's token: into the cache, and to the lanes of the fragments. `raw`: lane i of the lower half
/// warp holds chunk i of the key, the upper half the value's; a chunk beyond the head is zeros.
template <typename S>
__device__ inline void append_token(Tile<S>& x, const Stream& s, int local, const NewToken& token,
                                    const uint4& raw, bool halves, int lane) {
  const int chunk = lane % kTokenLanes;
  const bool value = lane >= kTokenLanes;
  typename S::Chunk held;
  if constexpr (S::kCodes) {
    const float scale = to_codes<S>(raw, halves, held);
    if (chunk == 0) *(value ? token.v_scale : token.k_scale) = scale;
    const float k_scale = __shfl_sync(0xffffffffu, scale, 0);
    const float v_scale = __shfl_sync(0xffffffffu, scale, kTokenLanes);
    if (lane == local) {
      x.k_scale = k_scale;
      x.v_scale = v_scale;
    }
  } else {
    held = raw;
  }
  if (chunk < s.chunks) {
    *reinterpret_cast<typename S::Chunk*>((value ? token.cache_v : token.cache_k) + S::kChunkBytes * chunk) =
        held;
  }
#pragma unroll
  for (int j = 0; j < S::kSteps; ++j) {
    const auto mine = from_lane(held, S::key_chunk(lane, j));
#pragma unroll
    for (int u = 0; u < S::kTiles; ++u) {
      if (8 * u + score_fragment_key(lane) == local) x.k[u][j] = mine;
    }
  }
#pragma unroll
  for (int jj = 0; jj < S::kBlocks; ++jj) {
    const auto mine = from_lane(held, kTokenLanes + S::value_chunk(lane, jj));
#pragma unroll
    for (int m = 0; m < S::kGroups; ++m) {
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        if (16 * m + value_fragment_key(lane, w) == local) x.v[m][w][jj] = mine;
      }
    }
  }
}

}  // namespace tandem::kernels::decode
