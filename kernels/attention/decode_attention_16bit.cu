// Decode attention for fp16 and bf16: keys and values go from global memory straight into tensor-core fragments. One
// m16n8k16 product serves up to eight query rows (beams) at the cost of one, so a single query uses the same code: the
// tensor cores here save instructions, not arithmetic; bytes bind.
#include "kernels/attention/decode_kernel.cuh"
#include "kernels/common/launch.h"

namespace tandem::kernels {
namespace {

/// Per-warp tiles of 16 * Groups keys. Steps = ceil(head_dim / 32): 16-byte chunks of a key a lane loads.
template <typename T, int Steps, bool Self>
struct Tile {
  static constexpr int kGroups = Steps == 4 ? 1 : 2;  // of 16 keys; 8 KB of K/V in flight a warp either way
  static constexpr int kKeys = 16 * kGroups;
  static constexpr int kBlocks = (Steps + 1) / 2;  // of 64 elements of a value

  uint4 k[2 * kGroups][Steps];
  uint4 v[kGroups][4][kBlocks];
};

/// Where the keys of one (source, head) are.
struct Stream {
  const char* k;  ///< first key of the head; of cache row 0 when `ancestry`
  const char* v;
  const int32_t* ancestry;  ///< of this row, or null
  int64_t source_bytes;
  int64_t token_bytes;
  int limit;   ///< keys at or beyond are not read: the warp's end, and the new token
  int chunks;  ///< 16-byte chunks of a head
};

/// Lane i: the cache row that holds key tile + i (rows beyond the limit are never used).
__device__ inline int ancestor(const Stream& s, int tile, int lane) {
  return s.ancestry != nullptr && tile + lane < s.limit ? s.ancestry[tile + lane] : 0;
}

template <typename T, int Steps, bool Self>
__device__ inline void load_keys(Tile<T, Steps, Self>& x, const Stream& s, int tile, int ancestors,
                                 int lane) {
#pragma unroll
  for (int u = 0; u < 2 * Tile<T, Steps, Self>::kGroups; ++u) {
    const int local = 8 * u + score_fragment_key(lane);
    int64_t at = (tile + local) * s.token_bytes;
    if constexpr (Self) {
      if (s.ancestry != nullptr) at += __shfl_sync(0xffffffffu, ancestors, local) * s.source_bytes;
    }
#pragma unroll
    for (int j = 0; j < Steps; ++j) {
      const int chunk = score_fragment_chunk(lane, j);
      x.k[u][j] = tile + local < s.limit && chunk < s.chunks ? load_once(s.k + at + 16 * chunk)
                                                             : make_uint4(0, 0, 0, 0);
    }
  }
}

template <typename T, int Steps, bool Self>
__device__ inline void load_values(Tile<T, Steps, Self>& x, const Stream& s, int tile, int ancestors,
                                   int lane) {
#pragma unroll
  for (int m = 0; m < Tile<T, Steps, Self>::kGroups; ++m) {
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const int local = 16 * m + value_fragment_key(lane, w);
      int64_t at = (tile + local) * s.token_bytes;
      if constexpr (Self) {
        if (s.ancestry != nullptr) at += __shfl_sync(0xffffffffu, ancestors, local) * s.source_bytes;
      }
#pragma unroll
      for (int jj = 0; jj < Tile<T, Steps, Self>::kBlocks; ++jj) {
        const int chunk = value_fragment_chunk(lane, jj);
        x.v[m][w][jj] = tile + local < s.limit && chunk < s.chunks ? load_once(s.v + at + 16 * chunk)
                                                                   : make_uint4(0, 0, 0, 0);
      }
    }
  }
}

/// The tile that holds the new token: its key and value come from this step's projection and go into the cache. The
/// lanes that hold its fragments hold each of its chunks exactly once.
template <typename T, int Steps>
__device__ inline void append(Tile<T, Steps, true>& x, int local, const char* new_k, const char* new_v,
                              char* cache_k, char* cache_v, int chunks, int lane) {
#pragma unroll
  for (int u = 0; u < 2 * Tile<T, Steps, true>::kGroups; ++u) {
    if (8 * u + score_fragment_key(lane) != local) continue;
#pragma unroll
    for (int j = 0; j < Steps; ++j) {
      const int chunk = score_fragment_chunk(lane, j);
      if (chunk >= chunks) continue;
      x.k[u][j] = load_once(new_k + 16 * chunk);
      *reinterpret_cast<uint4*>(cache_k + 16 * chunk) = x.k[u][j];
    }
  }
#pragma unroll
  for (int m = 0; m < Tile<T, Steps, true>::kGroups; ++m) {
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      if (16 * m + value_fragment_key(lane, w) != local) continue;
#pragma unroll
      for (int jj = 0; jj < Tile<T, Steps, true>::kBlocks; ++jj) {
        const int chunk = value_fragment_chunk(lane, jj);
        if (chunk >= chunks) continue;
        x.v[m][w][jj] = load_once(new_v + 16 * chunk);
        *reinterpret_cast<uint4*>(cache_v + 16 * chunk) = x.v[m][w][jj];
      }
    }
  }
}

/// Running softmax. The four lanes of query row lane / 4 hold the same maximum and their own part of the total; the sums
/// are transposed (value elements are the product's rows): o[..][half * 2 + i] belongs to query row 2 * (lane % 4) + i.
template <int Blocks>
struct State {
  float o[Blocks][4][4] = {};
  float maximum = -INFINITY;
  float total = 0.0f;
};

template <typename T, int Steps, bool Self>
__device__ inline void scores(const Tile<T, Steps, Self>& x, const uint4 (&q)[Steps],
                              float (&s)[2 * Tile<T, Steps, Self>::kGroups][4]) {
#pragma unroll
  for (int u = 0; u < 2 * Tile<T, Steps, Self>::kGroups; ++u) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[u][i] = 0.0f;
#pragma unroll
    for (int j = 0; j < Steps; ++j) {
      mma_16816<T>(s[u], q[j].x, 0, q[j].y, 0, x.k[u][j].x, x.k[u][j].y);
      mma_16816<T>(s[u], q[j].z, 0, q[j].w, 0, x.k[u][j].z, x.k[u][j].w);
    }
  }
}

/// Scores (in units of log 2, masked) to probabilities in T's precision; rescales the sums.
template <typename T, int Groups, int Blocks>
__device__ inline void softmax_step(float (&s)[2 * Groups][4], State<Blocks>& state,
                                    uint32_t (&p)[2 * Groups], int lane) {
  float maximum = state.maximum;
#pragma unroll
  for (int u = 0; u < 2 * Groups; ++u) maximum = fmaxf(maximum, fmaxf(s[u][0], s[u][1]));
  maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 1));
  maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 2));
  // A tile has at least one key below the limit, so the maximum is finite from here on.
  const float rescale = fast_exp2(state.maximum - maximum);
  state.maximum = maximum;
  state.total *= rescale;
#pragma unroll
  for (int u = 0; u < 2 * Groups; ++u) {
    p[u] = pack2<T>(fast_exp2(s[u][0] - maximum), fast_exp2(s[u][1] - maximum));
    // The total counts what the product will count: the rounded probabilities.
    const float2 rounded = unpack2<T>(p[u]);
    state.total += rounded.x + rounded.y;
  }
  const int t = lane & 3;
  const float rescale0 = __shfl_sync(0xffffffffu, rescale, 8 * t);
  const float rescale1 = __shfl_sync(0xffffffffu, rescale, 8 * t + 4);
#pragma unroll
  for (int b = 0; b < Blocks; ++b) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      state.o[b][i][0] *= rescale0;
      state.o[b][i][1] *= rescale1;
      state.o[b][i][2] *= rescale0;
      state.o[b][i][3] *= rescale1;
    }
  }
}

template <typename T, int Steps, bool Self>
__device__ inline void weighted_sum(const Tile<T, Steps, Self>& x,
                                    const uint32_t (&p)[2 * Tile<T, Steps, Self>::kGroups],
                                    State<Tile<T, Steps, Self>::kBlocks>& state) {
#pragma unroll
  for (int m = 0; m < Tile<T, Steps, Self>::kGroups; ++m) {
#pragma unroll
    for (int jj = 0; jj < Tile<T, Steps, Self>::kBlocks; ++jj) {
      const uint32_t w0[4] = {x.v[m][0][jj].x, x.v[m][0][jj].y, x.v[m][0][jj].z, x.v[m][0][jj].w};
      const uint32_t w1[4] = {x.v[m][1][jj].x, x.v[m][1][jj].y, x.v[m][1][jj].z, x.v[m][1][jj].w};
      const uint32_t w2[4] = {x.v[m][2][jj].x, x.v[m][2][jj].y, x.v[m][2][jj].z, x.v[m][2][jj].w};
      const uint32_t w3[4] = {x.v[m][3][jj].x, x.v[m][3][jj].y, x.v[m][3][jj].z, x.v[m][3][jj].w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        // Elements 2 i and 2 i + 1 of a chunk, each as a pair of neighbouring keys.
        mma_16816<T>(state.o[jj][i], __byte_perm(w0[i], w1[i], 0x5410u), __byte_perm(w0[i], w1[i], 0x7632u),
                     __byte_perm(w2[i], w3[i], 0x5410u), __byte_perm(w2[i], w3[i], 0x7632u), p[2 * m],
                     p[2 * m + 1]);
      }
    }
  }
}

template <typename T, int Steps, bool Self>
__global__ void __launch_bounds__(kDecodeThreads, Steps == 4 ? 2 : 3)
    decode_16bit_kernel(const DecodeArgs a) {
  using X = Tile<T, Steps, Self>;
  extern __shared__ __align__(16) float shared[];
  pdl_launch_dependents();
  if (!a.kv_ready) pdl_wait();

  const DecodeBlock b = decode_block(a, kDecodeRows16);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int row = lane >> 2;
  const uint32_t live = live_rows(a, b);

  int first_token = 0;
  int length = 0;
  int position = -1;
  if constexpr (Self) {
    position = *a.position;
    if (position < 0 || position >= a.max_length) __trap();
    length = position + 1;
  } else {
    first_token = a.offsets[b.source];
    length = a.offsets[b.source + 1] - first_token;
  }
  if (live == 0 || length <= 0) {  // the same for every block of the cluster
    if (a.kv_ready) pdl_wait();
    store_zeros<T>(a, b);
    return;
  }

  announce_block(a, b, shared);
  const KeyRange range =
      decode_range(length, kDecodeLog2Warps + a.log2_splits, b.split * kDecodeWarps + warp);
  const int64_t head_at = first_token * a.token_stride + b.head * a.head_stride;
  const bool indirect = Self && a.ancestry != nullptr;
  const int64_t source_at = indirect ? 0 : b.source * a.source_stride;
  const Stream stream{
      .k = reinterpret_cast<const char*>(static_cast<const T*>(a.k) + head_at + source_at),
      .v = reinterpret_cast<const char*>(static_cast<const T*>(a.v) + head_at + source_at),
      .ancestry = indirect ? a.ancestry + static_cast<int64_t>(b.source) * a.max_length : nullptr,
      .source_bytes = a.source_stride * static_cast<int64_t>(sizeof(T)),
      .token_bytes = a.token_stride * static_cast<int64_t>(sizeof(T)),
      .limit = Self ? min(range.end, position) : range.end,
      .chunks = a.head_dim / 8};

  X x;
  int tile = range.begin;
  int ancestors = ancestor(stream, tile, lane);
  if (tile < range.end) {
    load_keys(x, stream, tile, ancestors, lane);
    load_values(x, stream, tile, ancestors, lane);
  }
  if (a.kv_ready) pdl_wait();

  State<X::kBlocks> state;
  if (tile < range.end) {
    uint4 q[Steps];
#pragma unroll
    for (int j = 0; j < Steps; ++j) {
      const int chunk = score_fragment_chunk(lane, j);
      const T* at =
          static_cast<const T*>(a.q) + (b.first_row + row) * a.q_stride + b.head * a.head_dim + 8 * chunk;
      q[j] = row < b.rows && chunk < stream.chunks ? load_once(at) : make_uint4(0, 0, 0, 0);
    }
    const float scale = a.scale * kLog2E;
    const float* bias = nullptr;
    if constexpr (Self) {
      if (a.bias != nullptr) bias = a.bias + b.head * (2 * a.max_distance + 1);
    }

    while (true) {
      if constexpr (Self) {
        if (position >= tile && position < min(tile + X::kKeys, range.end)) {
          const int64_t from = b.first_row * a.q_stride + b.head * a.head_dim;
          const int64_t to = b.source * a.source_stride + head_at + position * a.token_stride;
          append<T, Steps>(x, position - tile,
                           reinterpret_cast<const char*>(static_cast<const T*>(a.new_k) + from),
                           reinterpret_cast<const char*>(static_cast<const T*>(a.new_v) + from),
                           reinterpret_cast<char*>(static_cast<T*>(a.k) + to),
                           reinterpret_cast<char*>(static_cast<T*>(a.v) + to), stream.chunks, lane);
        }
      }
      float added[2 * X::kGroups][2];
#pragma unroll
      for (int u = 0; u < 2 * X::kGroups; ++u) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          added[u][i] = 0.0f;
          if constexpr (Self) {
            const int distance = tile + 8 * u + score_column(lane) + i - position;
            if (bias != nullptr)
              added[u][i] = kLog2E * __ldg(bias + distance_bias_index(distance, a.max_distance));
          }
        }
      }

      float s[2 * X::kGroups][4];
      scores<T, Steps, Self>(x, q, s);
      const int next = tile + X::kKeys;
      const bool more = next < range.end;
      if (more) {  // the keys' registers are free again: request the next ones before the softmax
        ancestors = ancestor(stream, next, lane);
        load_keys(x, stream, next, ancestors, lane);
      }
#pragma unroll
      for (int u = 0; u < 2 * X::kGroups; ++u) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const bool seen = tile + 8 * u + score_column(lane) + i < range.end;
          s[u][i] = seen ? fmaf(s[u][i], scale, added[u][i]) : -INFINITY;
        }
      }
      uint32_t p[2 * X::kGroups];
      softmax_step<T, X::kGroups, X::kBlocks>(s, state, p, lane);
      weighted_sum<T, Steps, Self>(x, p, state);
      if (!more) break;
      load_values(x, stream, next, ancestors, lane);
      tile = next;
    }
  }

  float total = state.total;
  total += __shfl_xor_sync(0xffffffffu, total, 1);
  total += __shfl_xor_sync(0xffffffffu, total, 2);
  const Partial mine = decode_partial(shared, warp, b.rows, a.head_dim);
  if (row < b.rows && lane % 4 == 0) {
    mine.stats[2 * row] = state.maximum;
    mine.stats[2 * row + 1] = total;
  }
#pragma unroll
  for (int column = 0; column < 2; ++column) {
    const int r = score_column(lane) + column;
    if (r >= b.rows) continue;
#pragma unroll
    for (int jj = 0; jj < X::kBlocks; ++jj) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int element = value_result_element(lane, jj, i);
        if (element >= a.head_dim) continue;
        float* to = mine.sums + r * a.head_dim + element;
        *reinterpret_cast<float2*>(to) = make_float2(state.o[jj][i][column], state.o[jj][i][2 + column]);
      }
    }
  }
  combine_and_store<T>(a, b, live, shared);
}

template <typename T, int Steps, bool Self>
void launch_instance(const DecodeArgs& a, const DecodeLaunch& how) {
  const int rows = a.rows_per_source < kDecodeRows16 ? a.rows_per_source : kDecodeRows16;
  launch(decode_16bit_kernel<T, Steps, Self>,
         {.grid = dim3(static_cast<unsigned>(a.heads << a.log2_splits),
                       static_cast<unsigned>(how.sources * a.row_groups)),
          .block = dim3(kDecodeThreads),
          .shared_bytes =
              sizeof(float) * static_cast<size_t>(decode_shared_floats(rows, a.head_dim, a.log2_splits)),
          .dependent = how.dependent,
          .cluster = 1 << a.log2_splits},
         how.stream, a);
}

template <typename T, bool Self>
void launch_typed(const DecodeArgs& a, const DecodeLaunch& how) {
  if (a.head_dim <= 32) return launch_instance<T, 1, Self>(a, how);
  if (a.head_dim <= 64) return launch_instance<T, 2, Self>(a, how);
  return launch_instance<T, 4, Self>(a, how);
}

}  // namespace

void launch_decode_16bit(DType dtype, bool self, const DecodeArgs& args, const DecodeLaunch& how) {
  if (dtype == DType::kF16) {
    return self ? launch_typed<__half, true>(args, how) : launch_typed<__half, false>(args, how);
  }
  return self ? launch_typed<__nv_bfloat16, true>(args, how) : launch_typed<__nv_bfloat16, false>(args, how);
}

}  // namespace tandem::kernels
