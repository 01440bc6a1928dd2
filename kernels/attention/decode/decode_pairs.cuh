// Decode attention of many pairs: a warp has one to itself, or several in turn.
#pragma once

#include "kernels/attention/decode/decode_pair.cuh"
#include "kernels/common/arch.h"
#include "kernels/common/launch.h"

namespace tandem::kernels::decode {

/// A pair of a warp's walk.
struct WalkedPair {
  DecodeTask task;
  SourceKeys keys;
  bool exists;
  __device__ bool reads() const { return task.live != 0 && keys.length > 0; }
};
/// Its loads depend on nothing that the kernel computes, so that the next pair is known when this one's keys are at an end.
template <typename S>
__device__ inline WalkedPair walked_pair(const DecodeArgs& a, const DecodeSpread& spread, int round,
                                         int position) {
  WalkedPair p{};
  // The shuffle tells the compiler that the number is the same in all lanes.
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarp, 0);
  const int pair = spread.pair(static_cast<int>(blockIdx.x), warp, round);
  p.exists = pair < spread.pairs;
  if (!p.exists) return p;
  const int y = pair / a.heads;
  p.task.head = pair - y * a.heads;
  place_rows<S::kSelf>(p.task, a, y, kDecodeRows16);
  p.keys = source_keys<S>(a, p.task.source, position);
  return p;
}

/// Memory must not wait between two pairs of a warp: the next one's first keys, query and values are requested as soon as the
/// registers of this one's last are free.
template <typename S>
__global__ void __maxnreg__(S::kPairRegisters)
    decode_pairs_kernel(const DecodeArgs a, const DecodeSpread spread) {
  using T = typename S::T;
  pdl_launch_dependents();
  bool waited = !a.kv_ready;
  if (waited) pdl_wait();

  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int position = read_position<S>(a);
  int round = 0;
  WalkedPair now = walked_pair<S>(a, spread, round, position);
  bool requested = false;  // the first keys and values of `now`, its query and token
  Stream stream;           // of the keys requested last
  Tile<S> x;
  Query<S> q;
  uint4 token{};
  int ancestors = 0;
  while (now.exists) {
    const bool request = now.reads() && !requested;
    if (request) {
      stream = pair_stream<S>(a, now.task, now.keys.first_token, now.keys.length, position, lane);
      ancestors = ancestor(stream, 0, lane);
      load_keys(x, stream, 0, ancestors, lane);
      load_values(x, stream, 0, ancestors, lane);
    }
    if (!waited) {
      touch_params(a);
      pdl_wait();
      waited = true;
    }
    const WalkedPair next = walked_pair<S>(a, spread, ++round, position);
    if (!now.reads()) {
      store_zeros<T>(a, now.task);
      now = next;
      continue;
    }
    if (request) {
      load_query(q, a, now.task, stream, lane);
      if constexpr (S::kSelf) token = load_token(a, now.task, lane);
    }
    to_product(q, a.halves);
    const float scale = score_scale(a, q);
    const float* bias = head_bias<S>(a, now.task);
    const int end = now.keys.length;
    State<S> state;
    int tile = 0;
    while (true) {
      if constexpr (S::kSelf) append(x, a, now.task, stream, token, position, tile, end, lane);
      Scores<S> s;
      score(x, q.chunks, s);
      if constexpr (S::kCodes) scale_scores<S>(s, x.k_scale, lane);
      // The keys' registers are free again: request the next ones before the softmax.
      const bool last = tile + S::kKeys >= end;
      const bool ahead = !last || next.reads();
      const int upcoming = last ? 0 : tile + S::kKeys;
      if (last && ahead) {
        stream = pair_stream<S>(a, next.task, next.keys.first_token, next.keys.length, position, lane);
      }
      if (ahead) {
        ancestors = ancestor(stream, upcoming, lane);
        load_keys(x, stream, upcoming, ancestors, lane);
      }
      if (last && ahead) {
        load_query(q, a, next.task, stream, lane);
        if constexpr (S::kSelf) token = load_token(a, next.task, lane);
      }
      finish_scores<S>(s, scale, bias, a.max_distance, position, tile, end, lane);
      uint32_t p[S::kTiles];
      softmax_step<S>(s, state, x.v_scale, p, lane);
      weighted_sum(x, p, state);
      if (ahead) load_values(x, stream, upcoming, ancestors, lane);
      if (last) break;
      tile = upcoming;
    }
    if constexpr (S::kCodes) leave_unit(state);
    const float total = row_total(state.total);
    with_type<T>(a.halves, [&](auto element) {
      store_rows<S, decltype(element)>(a, now.task, stream, state, total, lane);
    });
    requested = next.reads();
    now = next;
  }
}

template <typename S>
void launch_pairs(const DecodeArgs& a, const DecodeLaunch& how) {
  const int pairs = how.sources * a.row_groups * a.heads;
  const DecodeSpread spread = decode_spread(pairs, multiprocessors(), S::kPairWarps);
  launch(decode_pairs_kernel<S>,
         {.grid = dim3(static_cast<unsigned>(spread.blocks)),
          .block = dim3(static_cast<unsigned>(spread.warps * kWarp)),
          .dependent = how.dependent},
         how.stream, a, spread);
}

}  // namespace tandem::kernels::decode
