// T5's relative position bias, from the trained table of buckets to a table by distance that attention kernels read.
// Built once when the weights are loaded (T5 shares one table between all layers of a side), never per step.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "harness/base/tensor.h"

namespace tandem::kernels {

struct DistanceBiasParams {
  DType dtype = DType::kF32;       ///< of `table`: kF32, kF16 or kBF16
  const void* table = nullptr;     ///< [buckets, heads], the checkpoint's relative_attention_bias
  int buckets = 32;                ///< 2 to 128; bidirectional: even, from 4
  int heads = 0;                   ///< columns of `table` that are used: this rank's heads
  int64_t table_stride = 0;        ///< elements between rows of `table`; 0: heads
  int max_distance = 128;          ///< above the buckets of one distance each, at most kMaxDistance (1024)
  bool bidirectional = true;       ///< true in the encoder, false in the decoder's self-attention
  float* distance_bias = nullptr;  ///< [heads, 2 * max_distance + 1], see distance_bias_index()
  bool dependent = false;
};

/// distance_bias[h][clamp(key - query, -max_distance, max_distance) + max_distance] = table[bucket(key - query)][h], with
/// bucket() exactly relative_bucket() of harness/model/batch.h. Distances beyond max_distance share the last bucket.
/// Throws UsageError for a field outside what is allowed.
void launch_distance_bias(const DistanceBiasParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
