// The likeliest token of stored logits, and the state in which a decode loop begins.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "harness/base/tensor.h"

namespace tandem::kernels {

/// For batches beyond the fused head (launch_head_argmax): arg-max of each row of logits + bias and the same
/// bookkeeping. Ties go to the lowest id; a NaN never wins, a row of nothing but NaN gives id 0.
struct SelectParams {
  int rows = 0;
  int vocab = 0;
  const float* logits = nullptr;    ///< [rows, vocab], rows logits_stride apart
  int64_t logits_stride = 0;        ///< elements
  DType bias_dtype = DType::kBF16;  ///< kF32, kF16 or kBF16
  const void* bias = nullptr;       ///< [vocab] or null
  float* biased = nullptr;          ///< [rows, vocab] or null: logits + bias, for validation
  int32_t id_offset = 0;            ///< added to every id: first id of this rank's slice of the vocabulary
  /// [rows] or null: the winners' logits, for launch_pick(). Then nothing else but next_ids is written, and tokens, position,
  /// finished and arrived are null.
  float* best_logits = nullptr;
  int32_t* next_ids = nullptr;  ///< [rows]
  int32_t* tokens = nullptr;    ///< [rows, tokens_stride]: ids are stored at column *position
  int64_t tokens_stride = 0;    ///< a column at or past it is not stored
  int32_t* position = nullptr;  ///< [1]; increased by one after the ids are stored
  bool stop_at_eos = false;     ///< a row that has given eos_id gives pad_id from then on
  int32_t eos_id = 1;
  int32_t pad_id = 0;
  int32_t* finished = nullptr;  ///< [rows] 0 or 1; when stop_at_eos
  int32_t* running = nullptr;   ///< [1] or null: rows not finished after this step
  int32_t* arrived = nullptr;   ///< [1] counter of blocks, 0 before the first launch and after each
  bool dependent = false;       ///< programmatic dependent launch
};
/// Throws UsageError naming the wrong field.
void launch_select(const SelectParams& params, cudaStream_t stream);

/// The best of what the ranks of a split vocabulary found, and the bookkeeping of launch_select(). Of equal logits the first
/// rank's wins, which has the lowest id.
struct PickParams {
  int rows = 0;
  int degree = 1;  ///< ranks
  const int32_t* candidates =
      nullptr;                  ///< [degree, 2, rows]: a rank's best_logits (bits of fp32), then their ids
  int32_t* next_ids = nullptr;  ///< as in SelectParams, and so the rest
  int32_t* tokens = nullptr;
  int64_t tokens_stride = 0;
  int32_t* position = nullptr;
  bool stop_at_eos = false;
  int32_t eos_id = 1;
  int32_t pad_id = 0;
  int32_t* finished = nullptr;
  int32_t* running = nullptr;
  bool dependent = false;
};
/// Throws UsageError naming the wrong field.
void launch_pick(const PickParams& params, cudaStream_t stream);

/// The state in which a decode loop begins.
struct DecodeStateParams {
  int batch = 0;
  int32_t position_value = 0;
  const int32_t* ids = nullptr;  ///< [batch] ids to feed first, or null: every row is fed `id`
  int32_t id = 0;
  int32_t pad_id = 0;
  int32_t* next_ids = nullptr;  ///< [batch]
  int32_t* position = nullptr;  ///< [1]
  int32_t* tokens = nullptr;    ///< [tokens_count], filled with pad_id
  int64_t tokens_count = 0;
  int32_t* finished = nullptr;  ///< [batch] or null
  int32_t* running = nullptr;   ///< [1] or null
};
void launch_decode_state(const DecodeStateParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
