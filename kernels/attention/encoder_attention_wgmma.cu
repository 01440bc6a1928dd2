// Encoder attention for fp16 and bf16 on sm_90a, after FlashAttention-3 (Shah et al. 2024): a producer warp feeds keys and
// values through the tensor copy engine; two warpgroups of 64 queries each run warpgroup products out of shared memory, and
// a tile's softmax overlaps both the same warpgroup's previous product with the values and the other warpgroup's products.
// The grid is persistent: the producer is already fetching the next query tile while the last one is being stored.
#include "harness/base/cuda_check.h"
#include "kernels/attention/attention_check.h"
#include "kernels/attention/encoder_kernel.h"
#include "kernels/attention/encoder_wgmma.cuh"
#include "kernels/common/arch.h"
#include "kernels/common/launch.h"
#include "kernels/common/tensor_map.h"

namespace tandem::kernels {
namespace {

using namespace wgmma_attention;

/// One thread. Runs through the same items and tiles as the consumers.
template <int Dim>
__device__ void produce(const WgmmaArgs& a, const CUtensorMap* q, const CUtensorMap* k, const CUtensorMap* v,
                        uint32_t shared, const Barriers<Dim>& barriers) {
  using L = Layout<Dim>;
  Ring<L::kStages> ring;
  uint32_t query_parity = 0;
  const int blocks = static_cast<int>(gridDim.x);
  for (int64_t round = 0; round * blocks < a.items; ++round) {
    const int64_t index = persistent_item(round, static_cast<int>(blockIdx.x), blocks);
    if (index >= a.items) continue;
    const Item item = locate(a, index);
    if (item.length == 0) continue;
    const int column = item.head * Dim;
    barrier_wait(barriers.query_empty(), query_parity ^ 1);
    query_parity ^= 1;
    barrier_arrive_expect(barriers.query_full(), L::kQueryBytes);
    for (int g = 0; g < kConsumers; ++g) {
      for (int h = 0; h < L::kHalves; ++h) {
        copy_box(shared + (g * L::kHalves + h) * L::kQueryTile, q, column + 64 * h,
                 item.first_token + item.q0 + g * kGroupQueries, barriers.query_full());
      }
    }
    for (int tile = 0; tile < item.tiles; ++tile) {
      const int row = item.first_token + tile * kKeys;
      barrier_wait(barriers.key_empty(ring.stage), ring.parity ^ 1);
      barrier_arrive_expect(barriers.key_full(ring.stage), L::kStageBytes);
      for (int h = 0; h < L::kHalves; ++h) {
        copy_box(shared + L::kKeysAt + ring.stage * L::kStageBytes + h * L::kKeyTile, k, column + 64 * h, row,
                 barriers.key_full(ring.stage));
      }
      barrier_wait(barriers.value_empty(ring.stage), ring.parity ^ 1);
      barrier_arrive_expect(barriers.value_full(ring.stage), L::kStageBytes);
      for (int h = 0; h < L::kHalves; ++h) {
        copy_box(shared + L::kValuesAt + ring.stage * L::kStageBytes + h * L::kKeyTile, v, column + 64 * h,
                 row, barriers.value_full(ring.stage));
      }
      ring.advance();
    }
  }
}

/// s = queries of a warpgroup times a stage of keys; not waited for.
template <typename T, int Dim>
__device__ inline void issue_scores(float (&s)[kKeys / 8][4], uint32_t queries, uint32_t keys) {
#pragma unroll
  for (int j = 0; j < Dim / 16; ++j) {
    const uint32_t within = 32 * (j % 4);  // 16 elements further inside the swizzled 128 bytes
    wgmma_shared<T>(s, tile_descriptor(queries + (j / 4) * Layout<Dim>::kQueryTile + within, 0),
                    tile_descriptor(keys + (j / 4) * Layout<Dim>::kKeyTile + within, 0), j != 0);
  }
}

/// o += probabilities times a stage of values; not waited for.
template <typename T, int Dim>
__device__ inline void issue_values(float (&o)[Dim / 8][4], const uint32_t (&p)[kKeys / 16][4],
                                    uint32_t values) {
#pragma unroll
  for (int j = 0; j < kKeys / 16; ++j) {
    wgmma_registers<T>(o, p[j], tile_descriptor(values + 16 * kRowBytes * j, Layout<Dim>::kKeyTile), true);
  }
}

template <typename T, int Dim>
__device__ void consume(const WgmmaArgs& a, unsigned char* shared, const Barriers<Dim>& barriers, int group,
                        int thread) {
  using L = Layout<Dim>;
  const int lane = thread % kWarp;
  const int warp = thread / kWarp;
  const uint32_t base = shared_address(shared);
  const uint32_t queries = base + group * L::kHalves * L::kQueryTile;
  const float scale = a.scale * kLog2E;
  const float late_scale = a.distance_bias != nullptr ? 1.0f : scale;
  const int blocks = static_cast<int>(gridDim.x);
  float* const bias = reinterpret_cast<float*>(shared + L::kBiasAt);
  int bias_head = -1;
  Ring<L::kStages> ring;
  uint32_t query_parity = 0;
  const Turns turns{group};
  turns.begin();

  const auto release = [&](uint32_t barrier) {  // the warp's products that read it have been waited for
    if (lane == 0) barrier_arrive(barrier);
  };

  for (int64_t round = 0; round * blocks < a.items; ++round) {
    const int64_t index = persistent_item(round, static_cast<int>(blockIdx.x), blocks);
    if (index >= a.items) continue;
    const Item item = locate(a, index);
    if (item.length == 0) continue;
    if (a.distance_bias != nullptr && item.head != bias_head) {  // each warpgroup has a table of its own
      bias_head = item.head;
      warpgroup_barrier(1 + group);
      fill_bias(bias + group * extended_bias_size(a.max_distance, kBiasMargin), a.distance_bias, item.head,
                a.max_distance, thread, kGroupThreads);
      warpgroup_barrier(1 + group);
    }
    const int group_q0 = item.q0 + group * kGroupQueries;
    barrier_wait(barriers.query_full(), query_parity);
    query_parity ^= 1;
    if (group_q0 >= item.length) {  // nothing to compute, but the producer counts on every warp
      release(barriers.query_empty());
      for (int tile = 0; tile < item.tiles; ++tile, ring.advance()) {
        turns.wait();
        turns.end();
        barrier_wait(barriers.key_full(ring.stage), ring.parity);
        release(barriers.key_empty(ring.stage));
        barrier_wait(barriers.value_full(ring.stage), ring.parity);
        release(barriers.value_empty(ring.stage));
      }
      continue;
    }

    TilePlace place{.bias = a.distance_bias != nullptr
                                ? bias + group * extended_bias_size(a.max_distance, kBiasMargin)
                                : nullptr,
                    .max_distance = a.max_distance,
                    .length = item.length,
                    .group_q0 = group_q0,
                    .row = group_q0 + 16 * warp + (lane >> 2),
                    .k0 = 0,
                    .column = 2 * (lane & 3),
                    .scale = scale,
                    .causal = a.causal};
    float s[kKeys / 8][4];
    float o[Dim / 8][4] = {};
    uint32_t p[kKeys / 16][4];
    float rescale[2];
    Softmax softmax;

    barrier_wait(barriers.key_full(ring.stage), ring.parity);
    turns.wait();
    wgmma_begin();
    issue_scores<T, Dim>(s, queries, base + L::kKeysAt + ring.stage * L::kStageBytes);
    wgmma_commit();
    turns.end();
    wgmma_wait<0>();
    hold(s);
    release(barriers.key_empty(ring.stage));
    finish_scores(s, place);
    softmax.step(s, late_scale, rescale);
    to_operand<T>(p, s);

    for (int tile = 1; tile < item.tiles; ++tile) {
      const Ring<L::kStages> previous = ring;
      ring.advance();
      barrier_wait(barriers.value_full(previous.stage), previous.parity);  // requested before the keys
      barrier_wait(barriers.key_full(ring.stage), ring.parity);
      turns.wait();
      wgmma_begin();
      issue_scores<T, Dim>(s, queries, base + L::kKeysAt + ring.stage * L::kStageBytes);
      wgmma_commit();
      issue_values<T, Dim>(o, p, base + L::kValuesAt + previous.stage * L::kStageBytes);
      wgmma_commit();
      turns.end();
      wgmma_wait<1>();
      hold(s);
      release(barriers.key_empty(ring.stage));
      place.k0 = tile * kKeys;
      finish_scores(s, place);
      softmax.step(s, late_scale, rescale);
      wgmma_wait<0>();
      hold(o);
      hold(p);
      release(barriers.value_empty(previous.stage));
#pragma unroll
      for (int j = 0; j < Dim / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) o[j][e] *= rescale[e >> 1];
      }
      to_operand<T>(p, s);
    }
    release(barriers.query_empty());

    barrier_wait(barriers.value_full(ring.stage), ring.parity);
    const int valid = item.length - (item.tiles - 1) * kKeys;
    if (valid < kKeys) {
      clear_values<Dim>(shared + L::kValuesAt + ring.stage * L::kStageBytes, valid, thread, 1 + group);
    }
    wgmma_begin();
    issue_values<T, Dim>(o, p, base + L::kValuesAt + ring.stage * L::kStageBytes);
    wgmma_commit();
    wgmma_wait<0>();
    hold(o);
    release(barriers.value_empty(ring.stage));
    ring.advance();

    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = softmax.total[half];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      inverse[half] = 1.0f / total;
    }
    const int first_row = group_q0 + 16 * warp;
    T* out = static_cast<T*>(a.out) + static_cast<int64_t>(item.first_token + first_row) * a.out_stride +
             item.head * Dim;
    store_rows<T, Dim>(shared + L::kOutAt + (group * 4 + warp) * 16 * Dim * 2, o, inverse, out, a.out_stride,
                       item.length - first_row, lane);
  }
}

template <typename T, int Dim>
__global__ void __launch_bounds__(kThreads, 1)
    encoder_wgmma_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                         const __grid_constant__ CUtensorMap v, const WgmmaArgs a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using L = Layout<Dim>;
  extern __shared__ __align__(1024) unsigned char raw[];
  // The swizzle is a function of the address: tiles begin at multiples of 1024 bytes of the shared window.
  unsigned char* const shared = raw + (1024 - shared_address(raw) % 1024) % 1024;
  pdl_launch_dependents();
  const Barriers<Dim> barriers{shared_address(shared) + L::kBarriersAt};
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    prefetch_map(&q);
    prefetch_map(&k);
    prefetch_map(&v);
    constexpr int kWarps = kConsumers * kGroupThreads / kWarp;
    barrier_init(barriers.query_full(), 1);
    barrier_init(barriers.query_empty(), kWarps);
    for (int s = 0; s < L::kStages; ++s) {
      barrier_init(barriers.key_full(s), 1);
      barrier_init(barriers.key_empty(s), kWarps);
      barrier_init(barriers.value_full(s), 1);
      barrier_init(barriers.value_empty(s), kWarps);
    }
    fence_barrier_init();
  }
  __syncthreads();
  pdl_wait();
  const int group = thread / kGroupThreads;
  if (group == 0) {
    fewer_registers<24>();
    if (thread == 0) produce<Dim>(a, &q, &k, &v, shared_address(shared), barriers);
  } else {
    more_registers<240>();
    consume<T, Dim>(a, shared, barriers, group - 1, thread % kGroupThreads);
  }
#else
  __trap();
#endif
}

/// Boxes of `rows` tokens and 64 columns of a [tokens, columns] matrix; zeros beyond its end.
CUtensorMap token_map(const EncoderAttentionParams& p, const void* data, int64_t stride, int rows) {
  return tensor_map<2>({.user = "encoder attention",
                        .dtype = p.dtype,
                        .data = data,
                        .sizes = {static_cast<int64_t>(p.heads) * p.head_dim, p.tokens},
                        .strides = {stride},
                        .box = {64, rows}});
}

template <typename T, int Dim>
void launch_instance(const EncoderAttentionParams& p, cudaStream_t stream) {
  const int query_tiles = ceil_div(p.max_source, kQueries);
  const WgmmaArgs args{.out = p.out,
                       .offsets = p.offsets,
                       .distance_bias = p.distance_bias,
                       .out_stride = p.out_stride,
                       .items = static_cast<int64_t>(p.batch) * p.heads * query_tiles,
                       .query_tiles = query_tiles,
                       .heads = p.heads,
                       .max_distance = p.max_distance,
                       .scale = p.scale,
                       .causal = p.causal};
  const size_t bytes = 1024 + Layout<Dim>::kBytes + kConsumers * bias_shared_bytes(p);
  TANDEM_CUDA_CHECK(cudaFuncSetAttribute(
      encoder_wgmma_kernel<T, Dim>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  const int64_t processors = multiprocessors();
  const dim3 grid(static_cast<unsigned>(args.items < processors ? args.items : processors));
  launch(encoder_wgmma_kernel<T, Dim>,
         {.grid = grid, .block = dim3(kThreads), .shared_bytes = bytes, .dependent = p.dependent}, stream,
         token_map(p, p.q, p.q_stride, kGroupQueries), token_map(p, p.k, p.k_stride, kKeys),
         token_map(p, p.v, p.v_stride, kKeys), args);
}

template <typename T>
void launch_typed(const EncoderAttentionParams& p, cudaStream_t stream) {
  if (p.head_dim == 64) return launch_instance<T, 64>(p, stream);
  launch_instance<T, 128>(p, stream);
}

}  // namespace

void launch_encoder_attention_wgmma(const EncoderAttentionParams& params, cudaStream_t stream) {
  if (params.dtype == DType::kF16) return launch_typed<__half>(params, stream);
  launch_typed<__nv_bfloat16>(params, stream);
}

}  // namespace tandem::kernels
