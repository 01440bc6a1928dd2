// What the launchers of decode_attention.cc hand to the kernels of this folder.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "harness/base/tensor.h"
#include "kernels/attention/attention_index.h"

namespace tandem::kernels {

/// Self- and cross-attention of a decode step seen alike: rows_per_source rows share one source's keys and values.
struct DecodeArgs {
  const void* q;
  const void* new_k;  ///< self only: this step's keys and values, rows q_stride apart
  const void* new_v;
  void* k;  ///< self: the cache, written at row `position`; cross: read only
  void* v;
  float* k_scales;  ///< of codes; self: written at `position`; cross: read only
  float* v_scales;
  void* out;
  const int32_t* position;  ///< self only
  const int32_t* offsets;   ///< cross only
  const int32_t* finished;
  const int32_t* ancestry;  ///< self only
  const float* bias;        ///< self only, [heads, 2 * max_distance + 1]
  int64_t q_stride;
  int64_t out_stride;
  int64_t source_stride;  ///< self: elements of one cache row, heads * capacity * head_dim; cross: 0
  int64_t head_stride;
  int64_t token_stride;
  int64_t scale_source_stride;  ///< self: heads * capacity; cross: 0
  int64_t scale_head_stride;
  int64_t scale_token_stride;
  int max_distance;
  int capacity;  ///< self: of the cache
  int rows_per_source;
  int row_groups;  ///< passes over a source's rows
  int heads;
  int head_dim;
  DecodeGrid grid;
  float scale;
  bool kv_ready;
  bool halves;  ///< of codes: q, new_k, new_v and out are halves, not bf16
};

/// How a kernel is to be launched; grid and block follow from the arguments.
struct DecodeLaunch {
  int sources = 0;
  bool dependent = false;
  cudaStream_t stream = nullptr;
};
void launch_decode_16bit(DType dtype, bool self, const DecodeArgs& args, const DecodeLaunch& how);
/// Keys and values are codes, the rest of 16 bits.
void launch_decode_f8(bool self, const DecodeArgs& args, const DecodeLaunch& how);
void launch_decode_i8(bool self, const DecodeArgs& args, const DecodeLaunch& how);
void launch_decode_f32(bool self, const DecodeArgs& args, const DecodeLaunch& how);

/// Rows that one block of either kernel carries through the source's keys and values.
inline constexpr int kDecodeRows16 = 8;
inline constexpr int kDecodeRowsF32 = 4;

}  // namespace tandem::kernels
