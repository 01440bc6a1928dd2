// T5's bias inside the encoder's kernels: one head's distance table in shared memory, in units of log 2, with both ends
// repeated, so that a score's bias is one load at a constant offset from a pointer that moves with the tile.
#pragma once

#include "kernels/attention/attention_index.h"
#include "kernels/attention/encoder_attention.h"
#include "kernels/common/mma_ptx.cuh"

namespace tandem::kernels {

inline constexpr int kBiasMargin =
    192;  ///< at least queries + keys of a tile - 2 in every kernel that uses it

inline size_t bias_shared_bytes(const EncoderAttentionParams& p) {
  if (p.distance_bias == nullptr) return 0;
  return sizeof(float) * static_cast<size_t>(extended_bias_size(p.max_distance, kBiasMargin));
}

/// All threads of the block; a barrier must follow.
__device__ inline void fill_bias(float* shared, const float* distance_bias, int head, int max_distance,
                                 int thread, int threads) {
  const float* table = distance_bias + static_cast<int64_t>(head) * (2 * max_distance + 1);
  for (int i = thread; i < extended_bias_size(max_distance, kBiasMargin); i += threads) {
    const int distance = i - max_distance - kBiasMargin;
    shared[i] = kLog2E * table[distance_bias_index(distance, max_distance)];
  }
}

}  // namespace tandem::kernels
