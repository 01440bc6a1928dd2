// Decode attention for fp32 (and tf32, which keeps fp32 here): dot products on the CUDA cores, a group of lanes a key.
#include "kernels/attention/decode/decode_kernel.cuh"
#include "kernels/common/launch.h"

namespace tandem::kernels {
namespace {

constexpr int kUnroll = 4;  // keys a lane has in flight: 4 KB of K/V a warp

__device__ inline float dot4(float4 a, float4 b) {
  return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, a.w * b.w)));
}

__device__ inline float4 load_float4(const float* p) {
  const uint4 v = load_once(p);
  return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
}

/// Lanes = lanes a key, each with four elements: 8, 16 or 32 (at least head_dim / 4). Rows: queries that share the keys.
template <int Lanes, int Rows, bool Self>
__global__ void __launch_bounds__(kDecodeThreads, 4) decode_f32_kernel(const DecodeArgs a) {
  constexpr int kGroups = kWarp / Lanes;    // keys of one load
  constexpr int kTile = kGroups * kUnroll;  // keys of one step of a warp
  static_assert(kDecodeGranule % kTile == 0);
  extern __shared__ __align__(16) float shared[];
  pdl_launch_dependents();
  if (!a.kv_ready) pdl_wait();

  const DecodeTask t = decode_task<Self>(a, kDecodeRowsF32);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int group = lane / Lanes;
  const int element = 4 * (lane % Lanes);
  const bool inside = element < a.head_dim;

  int first_token = 0;
  int length = 0;
  int position = -1;
  if constexpr (Self) {
    position = *a.position;
    if (position < 0 || position >= a.capacity) __trap();
    length = position + 1;
  } else {
    first_token = a.offsets[t.source];
    length = a.offsets[t.source + 1] - first_token;
  }
  if (a.kv_ready) pdl_wait();
  if (t.live == 0 || length <= 0) {  // the same for every block of the cluster
    store_zeros<float>(a, t);
    return;
  }
  announce_block(a, t, shared);

  KeyRange range = decode_range(length, a.grid.log2_workers, t.worker);
  if (t.head >= a.heads) range = {0, 0};
  const int64_t head_at = first_token * a.token_stride + t.head * a.head_stride;
  float* const k = static_cast<float*>(a.k) + head_at + element;
  float* const v = static_cast<float*>(a.v) + head_at + element;
  const int64_t new_at = t.first_row * a.q_stride + t.head * a.head_dim + element;
  const int32_t* ancestry = nullptr;
  const float* bias = nullptr;
  if constexpr (Self) {
    if (a.ancestry != nullptr) ancestry = a.ancestry + static_cast<int64_t>(t.source) * a.capacity;
    if (a.bias != nullptr) bias = a.bias + t.head * (2 * a.max_distance + 1);
  }

  const float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  float4 q[Rows];
  float4 sum[Rows];
  float maximum[Rows];
  float total[Rows];
#pragma unroll
  for (int r = 0; r < Rows; ++r) {
    q[r] = r < t.rows && inside && t.head < a.heads
               ? load_float4(static_cast<const float*>(a.q) + new_at + r * a.q_stride)
               : zero;
    sum[r] = zero;
    maximum[r] = -INFINITY;
    total[r] = 0.0f;
  }
  const float scale = a.scale * kLog2E;

  for (int tile = range.begin; tile < range.end; tile += kTile) {
    float4 kx[kUnroll];
    float4 vx[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int key = tile + u * kGroups + group;
      kx[u] = zero;
      vx[u] = zero;
      if (!inside || key >= range.end) continue;
      if (Self && key == position) {
        kx[u] = load_float4(static_cast<const float*>(a.new_k) + new_at);
        vx[u] = load_float4(static_cast<const float*>(a.new_v) + new_at);
      } else {
        const int source = ancestry != nullptr ? ancestry[key] : t.source;
        const int64_t at = source * a.source_stride + key * a.token_stride;
        kx[u] = load_float4(k + at);
        vx[u] = load_float4(v + at);
      }
    }
    if constexpr (Self) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int key = tile + u * kGroups + group;
        if (key != position || key >= range.end || !inside) continue;
        const int64_t at = t.source * a.source_stride + key * a.token_stride;
        *reinterpret_cast<float4*>(k + at) = kx[u];
        *reinterpret_cast<float4*>(v + at) = vx[u];
      }
    }
    float added[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int key = tile + u * kGroups + group;
      added[u] =
          bias != nullptr ? kLog2E * __ldg(bias + distance_bias_index(key - position, a.max_distance)) : 0.0f;
    }
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      float s[kUnroll];
      float top = maximum[r];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        s[u] = dot4(q[r], kx[u]);
#pragma unroll
        for (int m = Lanes / 2; m > 0; m >>= 1) s[u] += __shfl_xor_sync(0xffffffffu, s[u], m);
        s[u] = tile + u * kGroups + group < range.end ? fmaf(s[u], scale, added[u]) : -INFINITY;
        top = fmaxf(top, s[u]);
      }
      const float base = top == -INFINITY ? 0.0f : top;  // this group of lanes may have met no key yet
      const float rescale = fast_exp2(maximum[r] - base);
      maximum[r] = top;
      total[r] *= rescale;
      sum[r] = make_float4(sum[r].x * rescale, sum[r].y * rescale, sum[r].z * rescale, sum[r].w * rescale);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const float p = fast_exp2(s[u] - base);
        total[r] += p;
        sum[r].x = fmaf(p, vx[u].x, sum[r].x);
        sum[r].y = fmaf(p, vx[u].y, sum[r].y);
        sum[r].z = fmaf(p, vx[u].z, sum[r].z);
        sum[r].w = fmaf(p, vx[u].w, sum[r].w);
      }
    }
  }

#pragma unroll
  for (int r = 0; r < Rows; ++r) {
#pragma unroll
    for (int m = Lanes; m < kWarp;
         m <<= 1) {  // the groups of the warp, pairwise: both sides compute the same sum
      const float other = __shfl_xor_sync(0xffffffffu, maximum[r], m);
      const float top = fmaxf(maximum[r], other);
      const float weight = maximum[r] == -INFINITY ? 0.0f : fast_exp2(maximum[r] - top);
      maximum[r] = top;
      total[r] *= weight;
      total[r] += __shfl_xor_sync(0xffffffffu, total[r], m);
      float* const x = &sum[r].x;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        x[i] *= weight;
        x[i] += __shfl_xor_sync(0xffffffffu, x[i], m);
      }
    }
  }
  const bool only_worker = a.grid.log2_workers == 0;
#pragma unroll
  for (int r = 0; r < Rows; ++r) {
    if (r >= t.rows || group != 0 || !inside) continue;
    if (only_worker) {
      if (t.head >= a.heads) continue;
      const bool alive = (t.live >> r & 1u) != 0;
      const float inverse = 1.0f / total[r];
      *reinterpret_cast<float4*>(output<float>(a, t, r) + element) =
          alive ? make_float4(sum[r].x * inverse, sum[r].y * inverse, sum[r].z * inverse, sum[r].w * inverse)
                : zero;
      continue;
    }
    const Partial mine = decode_partial(shared, t.warp, t.rows, a.head_dim);
    if (lane == 0) *reinterpret_cast<float2*>(mine.stats + 2 * r) = make_float2(maximum[r], total[r]);
    float* to = mine.sums + r * a.head_dim + element;
    *reinterpret_cast<float2*>(to) = make_float2(sum[r].x, sum[r].y);
    *reinterpret_cast<float2*>(to + 2) = make_float2(sum[r].z, sum[r].w);
  }
  if (!only_worker) combine_and_store<float>(a, t, shared);
}

template <int Lanes, int Rows, bool Self>
void launch_instance(const DecodeArgs& a, const DecodeLaunch& how) {
  const int rows = a.rows_per_source < kDecodeRowsF32 ? a.rows_per_source : kDecodeRowsF32;
  const dim3 grid(static_cast<unsigned>(a.grid.blocks_x(a.heads)),
                  static_cast<unsigned>(how.sources * a.row_groups));
  launch(decode_f32_kernel<Lanes, Rows, Self>,
         {.grid = grid,
          .block = dim3(kDecodeThreads),
          .shared_bytes = sizeof(float) * static_cast<size_t>(decode_shared_floats(rows, a.head_dim, a.grid)),
          .dependent = how.dependent,
          .cluster = 1 << a.grid.log2_splits()},
         how.stream, a);
}

template <int Rows, bool Self>
void launch_rows(const DecodeArgs& a, const DecodeLaunch& how) {
  if (a.head_dim <= 32) return launch_instance<8, Rows, Self>(a, how);
  if (a.head_dim <= 64) return launch_instance<16, Rows, Self>(a, how);
  return launch_instance<32, Rows, Self>(a, how);
}

}  // namespace

void launch_decode_f32(bool self, const DecodeArgs& args, const DecodeLaunch& how) {
  if (self) return launch_rows<1, true>(args, how);
  if (args.rows_per_source == 1) return launch_rows<1, false>(args, how);
  return launch_rows<kDecodeRowsF32, false>(args, how);
}

}  // namespace tandem::kernels
