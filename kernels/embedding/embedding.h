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
/// as it advances). An id outside [0, vocab) or a row outside the position table gives a row of NaN instead
/// of reading elsewhere.
struct EmbeddingParams {
  DType dtype = DType::kBF16;      ///< table
  DType out_dtype = DType::kBF16;  ///< x: dtype or kF32
  int64_t tokens = 0;
  int d = 0;
  int vocab = 0;
  const int32_t* ids = nullptr;  ///< [tokens]
  const void* table = nullptr;   ///< [vocab, d]
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
  bool halves = false;  ///< [sin of all frequencies, cos of all] instead of sin, cos interleaved
  /// Frequency i is 10000^(-i / frequency_steps); 0: d / 2, as in Vaswani et al. 2017 (section 3.5) and
  /// Marian. tensor2tensor, fairseq and M2M100 use d / 2 - 1.
  double frequency_steps = 0;
};

/// [rows, d] in row order, sines and cosines taken in double and rounded once. An odd d ends with a sine
/// column when interleaved and with one sine column more than cosine columns when halves. Throws UsageError.
std::vector<float> sinusoid_table(const SinusoidShape& shape);

}  // namespace tandem::kernels
