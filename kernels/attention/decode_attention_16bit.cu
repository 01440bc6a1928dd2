// Decode attention for fp16 and bf16: keys and values go from global memory straight into tensor-core fragments. One
// m16n8k16 product serves up to eight query rows (beams) at the cost of one, so a single query uses the same code: the
// tensor cores here save instructions, not arithmetic. Bytes bind, and next to them the instructions around the loads: a
// full tile has no predicates and, in self-attention, constant offsets.
#include "kernels/attention/decode_kernel.cuh"
#include "kernels/common/launch.h"

namespace tandem::kernels {
namespace {

/// One head size (Exact: head_dim is 32 * Steps; else anything up to it) and its tiles. Steps: 16-byte chunks of a key that
/// a lane loads.
template <typename T_, int Steps_, bool Exact_, bool Self_>
struct Shape {
  using T = T_;
  static constexpr int kSteps = Steps_;
  static constexpr bool kExact = Exact_;
  static constexpr bool kSelf = Self_;
  static constexpr int kGroups = kSteps == 4 ? 1 : 2;  // of 16 keys; 8 KB of K/V in flight a warp either way
  static constexpr int kKeys = 16 * kGroups;
  static constexpr int kTiles = 2 * kGroups;        // products of scores, eight keys each
  static constexpr int kBlocks = (kSteps + 1) / 2;  // of 64 elements of a value
  static constexpr int kMinBlocks = kSteps == 4 ? 2 : 3;
};

template <typename S>
struct Tile {
  uint4 k[S::kTiles][S::kSteps];
  uint4 v[S::kGroups][4][S::kBlocks];
};

/// Where this lane finds the keys of one (source, head).
struct Stream {
  const char* k;  ///< this lane's first chunk of its key of tile 0; of cache row 0 when `ancestry`
  const char* v;
  const int32_t* ancestry;  ///< of this row, or null
  int64_t source_bytes;
  int64_t token_bytes;
  int limit;   ///< keys at or beyond are not read: the warp's end, and the new token
  int chunks;  ///< 16-byte chunks of a head
};

/// A lane holds a chunk of a key beyond the head: only where the head is narrower than the fragments.
template <typename S>
__device__ inline bool key_chunk_exists(const Stream& s, int lane, int step) {
  return S::kExact || score_fragment_chunk(lane, step) < s.chunks;
}
template <typename S>
__device__ inline bool value_chunk_exists(const Stream& s, int lane, int block) {
  return (S::kExact && S::kSteps >= 2) || value_fragment_chunk(lane, block) < s.chunks;
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

template <typename S>
__device__ inline void load_keys(Tile<S>& x, const Stream& s, int tile, int ancestors, int lane) {
  const char* p = s.k + tile * s.token_bytes;
  if (whole<S>(s, tile)) {
#pragma unroll
    for (int u = 0; u < S::kTiles; ++u) {
#pragma unroll
      for (int j = 0; j < S::kSteps; ++j) x.k[u][j] = load_once(p + u * 8 * s.token_bytes + 64 * j);
    }
    return;
  }
#pragma unroll
  for (int u = 0; u < S::kTiles; ++u) {
    const int local = 8 * u + score_fragment_key(lane);
    const char* at = p + u * 8 * s.token_bytes;
    if constexpr (S::kSelf) {
      if (s.ancestry != nullptr) at += __shfl_sync(0xffffffffu, ancestors, local) * s.source_bytes;
    }
    const bool read = tile + local < s.limit;
#pragma unroll
    for (int j = 0; j < S::kSteps; ++j) {
      x.k[u][j] = read && key_chunk_exists<S>(s, lane, j) ? load_once(at + 64 * j) : make_uint4(0, 0, 0, 0);
    }
  }
}

template <typename S>
__device__ inline void load_values(Tile<S>& x, const Stream& s, int tile, int ancestors, int lane) {
  const char* p = s.v + tile * s.token_bytes;
  if (whole<S>(s, tile)) {
#pragma unroll
    for (int m = 0; m < S::kGroups; ++m) {
#pragma unroll
      for (int w = 0; w < 4; ++w) {
#pragma unroll
        for (int jj = 0; jj < S::kBlocks; ++jj) {
          x.v[m][w][jj] = value_chunk_exists<S>(s, lane, jj)
                              ? load_once(p + (16 * m + value_fragment_key(0, w)) * s.token_bytes + 128 * jj)
                              : make_uint4(0, 0, 0, 0);
        }
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
      const bool read = tile + local < s.limit;
#pragma unroll
      for (int jj = 0; jj < S::kBlocks; ++jj) {
        x.v[m][w][jj] =
            read && value_chunk_exists<S>(s, lane, jj) ? load_once(at + 128 * jj) : make_uint4(0, 0, 0, 0);
      }
    }
  }
}

/// The tile that holds the new token: its key and value come from this step's projection and go into the cache. The
/// lanes that hold its fragments hold each of its chunks exactly once.
template <typename S>
__device__ inline void append(Tile<S>& x, const Stream& s, int local, const char* new_k, const char* new_v,
                              char* cache_k, char* cache_v, int lane) {
#pragma unroll
  for (int u = 0; u < S::kTiles; ++u) {
    if (8 * u + score_fragment_key(lane) != local) continue;
#pragma unroll
    for (int j = 0; j < S::kSteps; ++j) {
      if (!key_chunk_exists<S>(s, lane, j)) continue;
      const int at = 16 * score_fragment_chunk(lane, j);
      x.k[u][j] = load_once(new_k + at);
      *reinterpret_cast<uint4*>(cache_k + at) = x.k[u][j];
    }
  }
#pragma unroll
  for (int m = 0; m < S::kGroups; ++m) {
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      if (16 * m + value_fragment_key(lane, w) != local) continue;
#pragma unroll
      for (int jj = 0; jj < S::kBlocks; ++jj) {
        if (!value_chunk_exists<S>(s, lane, jj)) continue;
        const int at = 16 * value_fragment_chunk(lane, jj);
        x.v[m][w][jj] = load_once(new_v + at);
        *reinterpret_cast<uint4*>(cache_v + at) = x.v[m][w][jj];
      }
    }
  }
}

/// Running softmax. The four lanes of query row lane / 4 hold the same maximum and their own part of the total; the sums
/// are transposed (value elements are the product's rows): o[..][half * 2 + i] belongs to query row 2 * (lane % 4) + i.
template <typename S>
struct State {
  float o[S::kBlocks][4][4] = {};
  float maximum = -INFINITY;
  float total = 0.0f;
};

template <typename S>
using Scores = float[S::kTiles][4];  // [..][2], [3] belong to rows 8-15 of the product, which are not used

template <typename S>
__device__ inline void score(const Tile<S>& x, const uint4 (&q)[S::kSteps], Scores<S>& s) {
#pragma unroll
  for (int u = 0; u < S::kTiles; ++u) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[u][i] = 0.0f;
#pragma unroll
    for (int j = 0; j < S::kSteps; ++j) {
      mma_16816<typename S::T>(s[u], q[j].x, 0, q[j].y, 0, x.k[u][j].x, x.k[u][j].y);
      mma_16816<typename S::T>(s[u], q[j].z, 0, q[j].w, 0, x.k[u][j].z, x.k[u][j].w);
    }
  }
}

/// To units of log 2, with the bias by distance (bias null: none), -inf at or beyond `end`.
template <typename S>
__device__ inline void finish_scores(Scores<S>& s, float scale, const float* bias, int max_distance,
                                     int position, int tile, int end, int lane) {
  if (!S::kSelf || bias == nullptr) {
#pragma unroll
    for (int u = 0; u < S::kTiles; ++u) {
      s[u][0] *= scale;
      s[u][1] *= scale;
    }
  } else if (tile + S::kKeys - 1 - position <= -max_distance) {
    const float constant = kLog2E * __ldg(bias);
#pragma unroll
    for (int u = 0; u < S::kTiles; ++u) {
      s[u][0] = fmaf(s[u][0], scale, constant);
      s[u][1] = fmaf(s[u][1], scale, constant);
    }
  } else {
#pragma unroll
    for (int u = 0; u < S::kTiles; ++u) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int distance = tile + 8 * u + score_column(lane) + i - position;
        s[u][i] = fmaf(s[u][i], scale, kLog2E * __ldg(bias + distance_bias_index(distance, max_distance)));
      }
    }
  }
  if (tile + S::kKeys > end) {
#pragma unroll
    for (int u = 0; u < S::kTiles; ++u) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (tile + 8 * u + score_column(lane) + i >= end) s[u][i] = -INFINITY;
      }
    }
  }
}

/// Scores to probabilities in T's precision; rescales the sums.
template <typename S>
__device__ inline void softmax_step(const Scores<S>& s, State<S>& state, uint32_t (&p)[S::kTiles], int lane) {
  float maximum = state.maximum;
#pragma unroll
  for (int u = 0; u < S::kTiles; ++u) maximum = fmaxf(maximum, fmaxf(s[u][0], s[u][1]));
  maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 1));
  maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 2));
  // A tile has at least one key below its end, so the maximum is finite from here on.
  const float rescale = fast_exp2(state.maximum - maximum);
  state.maximum = maximum;
  state.total *= rescale;
#pragma unroll
  for (int u = 0; u < S::kTiles; ++u) {
    p[u] = pack2<typename S::T>(fast_exp2(s[u][0] - maximum), fast_exp2(s[u][1] - maximum));
    // The total counts what the product will count: the rounded probabilities.
    const float2 rounded = unpack2<typename S::T>(p[u]);
    state.total += rounded.x + rounded.y;
  }
  const float rescale0 = __shfl_sync(0xffffffffu, rescale, 4 * score_column(lane));
  const float rescale1 = __shfl_sync(0xffffffffu, rescale, 4 * score_column(lane) + 4);
#pragma unroll
  for (int b = 0; b < S::kBlocks; ++b) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      state.o[b][i][0] *= rescale0;
      state.o[b][i][1] *= rescale1;
      state.o[b][i][2] *= rescale0;
      state.o[b][i][3] *= rescale1;
    }
  }
}

template <typename S>
__device__ inline void weighted_sum(const Tile<S>& x, const uint32_t (&p)[S::kTiles], State<S>& state) {
#pragma unroll
  for (int m = 0; m < S::kGroups; ++m) {
#pragma unroll
    for (int jj = 0; jj < S::kBlocks; ++jj) {
      const uint32_t w0[4] = {x.v[m][0][jj].x, x.v[m][0][jj].y, x.v[m][0][jj].z, x.v[m][0][jj].w};
      const uint32_t w1[4] = {x.v[m][1][jj].x, x.v[m][1][jj].y, x.v[m][1][jj].z, x.v[m][1][jj].w};
      const uint32_t w2[4] = {x.v[m][2][jj].x, x.v[m][2][jj].y, x.v[m][2][jj].z, x.v[m][2][jj].w};
      const uint32_t w3[4] = {x.v[m][3][jj].x, x.v[m][3][jj].y, x.v[m][3][jj].z, x.v[m][3][jj].w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        // Elements 2 i and 2 i + 1 of a chunk, each as a pair of neighbouring keys.
        mma_16816<typename S::T>(state.o[jj][i], __byte_perm(w0[i], w1[i], 0x5410u),
                                 __byte_perm(w0[i], w1[i], 0x7632u), __byte_perm(w2[i], w3[i], 0x5410u),
                                 __byte_perm(w2[i], w3[i], 0x7632u), p[2 * m], p[2 * m + 1]);
      }
    }
  }
}

/// The only worker of its pair: rows go straight from the accumulators, 16 bytes a lane and 64-element block.
template <typename S>
__device__ inline void store_rows(const DecodeArgs& a, const DecodeTask& t, const Stream& s,
                                  const State<S>& state, float total, int lane) {
  using T = typename S::T;
  const float inverse = 1.0f / total;
#pragma unroll
  for (int column = 0; column < 2; ++column) {
    const int row = score_column(lane) + column;
    const float factor = __shfl_sync(0xffffffffu, inverse, 4 * row);
    if (row >= t.rows) continue;
    const bool alive = (t.live >> row & 1u) != 0;
#pragma unroll
    for (int jj = 0; jj < S::kBlocks; ++jj) {
      if (!value_chunk_exists<S>(s, lane, jj)) continue;
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        words[i] = alive ? pack2<T>(state.o[jj][i][column] * factor, state.o[jj][i][2 + column] * factor) : 0;
      }
      T* to = output<T>(a, t, row) + value_result_element(lane, jj, 0);
      *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
}

/// One of several workers: its partial result.
template <typename S>
__device__ inline void leave_partial(const DecodeArgs& a, const DecodeTask& t, const State<S>& state,
                                     float total, float* shared, int lane) {
  const Partial mine = decode_partial(shared, t.warp, t.rows, a.head_dim);
  if ((lane >> 2) < t.rows && lane % 4 == 0) {
    *reinterpret_cast<float2*>(mine.stats + 2 * (lane >> 2)) = make_float2(state.maximum, total);
  }
#pragma unroll
  for (int column = 0; column < 2; ++column) {
    const int row = score_column(lane) + column;
    if (row >= t.rows) continue;
#pragma unroll
    for (int jj = 0; jj < S::kBlocks; ++jj) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int element = value_result_element(lane, jj, i);
        if (element >= a.head_dim) continue;
        *reinterpret_cast<float2*>(mine.sums + row * a.head_dim + element) =
            make_float2(state.o[jj][i][column], state.o[jj][i][2 + column]);
      }
    }
  }
}

template <typename S>
__global__ void __launch_bounds__(kDecodeThreads, S::kMinBlocks) decode_16bit_kernel(const DecodeArgs a) {
  using T = typename S::T;
  extern __shared__ __align__(16) float shared[];
  pdl_launch_dependents();
  if (!a.kv_ready) pdl_wait();

  const DecodeTask t = decode_task(a, kDecodeRows16);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int first_token = 0;
  int length = 0;
  int position = -1;
  if constexpr (S::kSelf) {
    position = *a.position;
    if (position < 0 || position >= a.max_length) __trap();
    length = position + 1;
  } else {
    first_token = a.offsets[t.source];
    length = a.offsets[t.source + 1] - first_token;
  }
  if (t.live == 0 || length <= 0) {  // the same for every block of the cluster
    if (a.kv_ready) pdl_wait();
    store_zeros<T>(a, t);
    return;
  }
  announce_block(a, t, shared);

  KeyRange range = decode_range(length, a.grid.log2_workers, t.worker);
  if (t.head >= a.heads) range = {0, 0};
  const int64_t token_bytes = S::kSelf && S::kExact ? S::kSteps * 64 : a.token_stride * 2;
  const int64_t head_at = first_token * a.token_stride + t.head * a.head_stride;
  const bool indirect = S::kSelf && a.ancestry != nullptr;
  const int64_t from = 2 * (head_at + (indirect ? 0 : t.source * a.source_stride));
  const Stream stream{
      .k = static_cast<const char*>(a.k) + from + score_fragment_key(lane) * token_bytes +
           16 * score_fragment_chunk(lane, 0),
      .v = static_cast<const char*>(a.v) + from + value_fragment_key(lane, 0) * token_bytes +
           16 * value_fragment_chunk(lane, 0),
      .ancestry = indirect ? a.ancestry + static_cast<int64_t>(t.source) * a.max_length : nullptr,
      .source_bytes = 2 * a.source_stride,
      .token_bytes = token_bytes,
      .limit = S::kSelf ? min(range.end, position) : range.end,
      .chunks = a.head_dim / 8};

  Tile<S> x;
  int tile = range.begin;
  int ancestors = 0;
  if (tile < range.end) {
    ancestors = ancestor(stream, tile, lane);
    load_keys(x, stream, tile, ancestors, lane);
    load_values(x, stream, tile, ancestors, lane);
  }
  touch_params(a);
  if (a.kv_ready) pdl_wait();

  State<S> state;
  if (tile < range.end) {
    uint4 q[S::kSteps];
    const T* query =
        static_cast<const T*>(a.q) + (t.first_row + (lane >> 2)) * a.q_stride + t.head * a.head_dim;
#pragma unroll
    for (int j = 0; j < S::kSteps; ++j) {
      const bool exists = (lane >> 2) < t.rows && key_chunk_exists<S>(stream, lane, j);
      q[j] = exists ? load_once(query + 8 * score_fragment_chunk(lane, j)) : make_uint4(0, 0, 0, 0);
    }
    const float scale = a.scale * kLog2E;
    const float* bias = nullptr;
    if constexpr (S::kSelf) {
      if (a.bias != nullptr) bias = a.bias + t.head * (2 * a.max_distance + 1);
    }

    while (true) {
      if constexpr (S::kSelf) {
        if (position >= tile && position < min(tile + S::kKeys, range.end)) {
          const int64_t new_at = 2 * (t.first_row * a.q_stride + t.head * a.head_dim);
          const int64_t to = 2 * (head_at + t.source * a.source_stride) + position * token_bytes;
          append(x, stream, position - tile, static_cast<const char*>(a.new_k) + new_at,
                 static_cast<const char*>(a.new_v) + new_at, static_cast<char*>(a.k) + to,
                 static_cast<char*>(a.v) + to, lane);
        }
      }
      Scores<S> s;
      score(x, q, s);
      const int next = tile + S::kKeys;
      const bool more = next < range.end;
      if (more) {  // the keys' registers are free again: request the next ones before the softmax
        ancestors = ancestor(stream, next, lane);
        load_keys(x, stream, next, ancestors, lane);
      }
      finish_scores<S>(s, scale, bias, a.max_distance, position, tile, range.end, lane);
      uint32_t p[S::kTiles];
      softmax_step<S>(s, state, p, lane);
      weighted_sum(x, p, state);
      if (!more) break;
      load_values(x, stream, next, ancestors, lane);
      tile = next;
    }
  }

  float total = state.total;
  total += __shfl_xor_sync(0xffffffffu, total, 1);
  total += __shfl_xor_sync(0xffffffffu, total, 2);
  if (a.grid.log2_workers == 0) {
    if (t.head < a.heads) store_rows(a, t, stream, state, total, lane);
    return;
  }
  leave_partial(a, t, state, total, shared, lane);
  combine_and_store<T>(a, t, shared);
}

template <typename S>
void launch_instance(const DecodeArgs& a, const DecodeLaunch& how) {
  const int rows = a.rows_per_source < kDecodeRows16 ? a.rows_per_source : kDecodeRows16;
  const dim3 grid(static_cast<unsigned>(a.grid.blocks_x(a.heads)),
                  static_cast<unsigned>(how.sources * a.row_groups));
  launch(decode_16bit_kernel<S>,
         {.grid = grid,
          .block = dim3(kDecodeThreads),
          .shared_bytes = sizeof(float) * static_cast<size_t>(decode_shared_floats(rows, a.head_dim, a.grid)),
          .dependent = how.dependent,
          .cluster = 1 << a.grid.log2_splits()},
         how.stream, a);
}

template <typename T, bool Self>
void launch_typed(const DecodeArgs& a, const DecodeLaunch& how) {
  switch (a.head_dim) {
    case 32:
      return launch_instance<Shape<T, 1, true, Self>>(a, how);
    case 64:
      return launch_instance<Shape<T, 2, true, Self>>(a, how);
    case 128:
      return launch_instance<Shape<T, 4, true, Self>>(a, how);
    default:
      return launch_instance<Shape<T, 4, false, Self>>(a, how);
  }
}

}  // namespace

void launch_decode_16bit(DType dtype, bool self, const DecodeArgs& args, const DecodeLaunch& how) {
  if (dtype == DType::kF16) {
    return self ? launch_typed<__half, true>(args, how) : launch_typed<__half, false>(args, how);
  }
  return self ? launch_typed<__nv_bfloat16, true>(args, how) : launch_typed<__nv_bfloat16, false>(args, how);
}

}  // namespace tandem::kernels
