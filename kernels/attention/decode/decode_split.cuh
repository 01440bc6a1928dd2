// Decode attention of few pairs: the length of each is split over warps of a block or of a cluster.
#pragma once

#include "kernels/attention/decode/decode_pair.cuh"
#include "kernels/common/launch.h"

namespace tandem::kernels::decode {

template <typename S>
__global__ void __launch_bounds__(S::kSplitWarps* kWarp, S::kSplitBlocks)
    decode_split_kernel(const DecodeArgs a) {
  using T = typename S::T;
  extern __shared__ __align__(16) float shared[];
  pdl_launch_dependents();
  if (!a.kv_ready) pdl_wait();

  const DecodeTask t = decode_task<S::kSelf>(a, kDecodeRows16);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int position = read_position<S>(a);
  const SourceKeys keys = source_keys<S>(a, t.source, position);
  if (t.live == 0 || keys.length <= 0) {  // the same for every block of the cluster
    if (a.kv_ready) pdl_wait();
    store_zeros<T>(a, t);
    return;
  }
  announce_block(a, t, shared);

  KeyRange range = decode_range(keys.length, a.grid.log2_workers, t.worker);
  if (t.head >= a.heads) range = {0, 0};
  const Stream stream = pair_stream<S>(a, t, keys.first_token, range.end, position, lane);

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
    Query<S> q;
    load_query(q, a, t, stream, lane);
    uint4 token{};
    if (S::kSelf && position >= range.begin && position < range.end) token = load_token(a, t, lane);
    to_product(q, a.halves);
    const float scale = score_scale(a, q);
    const float* bias = head_bias<S>(a, t);

    while (true) {
      if constexpr (S::kSelf) append(x, a, t, stream, token, position, tile, range.end, lane);
      Scores<S> s;
      score(x, q.chunks, s);
      if constexpr (S::kCodes) scale_scores<S>(s, x.k_scale, lane);
      const int next = tile + S::kKeys;
      const bool more = next < range.end;
      if (more) {  // the keys' registers are free again: request the next ones before the softmax
        ancestors = ancestor(stream, next, lane);
        load_keys(x, stream, next, ancestors, lane);
      }
      finish_scores<S>(s, scale, bias, a.max_distance, position, tile, range.end, lane);
      uint32_t p[S::kTiles];
      softmax_step<S>(s, state, x.v_scale, p, lane);
      weighted_sum(x, p, state);
      if (!more) break;
      load_values(x, stream, next, ancestors, lane);
      tile = next;
    }
  }

  if constexpr (S::kCodes) leave_unit(state);
  leave_partial(a, t, state, row_total(state.total), shared, lane);
  combine_and_store<T, S::kSplitWarps>(a, t, shared);
}

template <typename S>
void launch_split(const DecodeArgs& a, const DecodeLaunch& how) {
  const int rows = a.rows_per_source < kDecodeRows16 ? a.rows_per_source : kDecodeRows16;
  const dim3 grid(static_cast<unsigned>(a.grid.blocks_x(a.heads)),
                  static_cast<unsigned>(how.sources * a.row_groups));
  launch(decode_split_kernel<S>,
         {.grid = grid,
          .block = dim3(static_cast<unsigned>(a.grid.warps() * kWarp)),
          .shared_bytes = sizeof(float) * static_cast<size_t>(decode_shared_floats(rows, a.head_dim, a.grid)),
          .dependent = how.dependent,
          .cluster = 1 << a.grid.log2_splits()},
         how.stream, a);
}

}  // namespace tandem::kernels::decode
