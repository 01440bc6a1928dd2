// Token embedding, its scale and the position row, for packed encoder tokens and for one decoder step.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "harness/base/tensor.h"

namespace tandem::kernels {

/// x[t, :] = table[ids[t], :] * scale + positions[position(t) + position_offset, :], one rounding at the end.
/// position(t) is the index inside its sequence (offsets given: encoder, or decoder prefix) or *step (step
/// given: one token of each sequence; the counter is read on the device, so a captured graph can be replayed
/// as it advances). An id of the vocabulary that is not among the table's rows gives a row of zeros: another rank has it. An id
/// outside [0, vocab) or a row outside the position table gives a row of NaN instead
/// of reading elsewhere.
struct EmbeddingParams {
  DType dtype = DType::kBF16;      ///< table
  DType out_dtype = DType::kBF16;  ///< x: dtype or kF32
  int64_t tokens = 0;
  int d = 0;
  int vocab = 0;
  const int32_t* ids = nullptr;  ///< [tokens]
  const void* table = nullptr;   ///< [table_rows, d]
  int first_id = 0;              ///< of the table's rows
  int table_rows = 0;            ///< 0: vocab
  float scale = 1.0f;
  const void* positions = nullptr;      ///< [position_rows, d], or null (none and relative positions)
  DType positions_dtype = DType::kF32;  ///< kF32 (sinusoids), or dtype (learned)
  int position_rows = 0;
  int position_offset = 0;
  const int32_t* offsets = nullptr;  ///< [batch + 1] packed starts
  int batch = 0;                     ///< sequences in offsets
  const int32_t* step = nullptr;     ///< [1]; exactly one of offsets and step when there are positions
  void* x = nullptr;                 ///< [tokens, d]
  bool dependent = false;            ///< programmatic dependent launch
};

/// Throws UsageError naming the wrong field.
void launch_embedding(const EmbeddingParams& params, cudaStream_t stream);

struct SinusoidShape {
  int rows = 0;
  int d = 0;
  bool halves =
      false;  ///< the sines of all frequencies, then their cosines (Marian); otherwise sin, cos interleaved
  /// Frequency i is 10000^(-i / (d/2 - 1)) (tensor2tensor, fairseq, M2M100, NLLB) instead of 10000^(-2i / d)
  /// (Vaswani et al. 2017, section 3.5).
  bool spans_end = false;
};

/// [rows, d] in row order, sines and cosines taken in double and rounded once; row r belongs to position r.
/// Throws UsageError for an odd d or, with spans_end, d < 4.
std::vector<float> sinusoid_table(const SinusoidShape& shape);

}  // namespace tandem::kernels
