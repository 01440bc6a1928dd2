// Token embedding and absolute positions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "harness/model/config.h"
#include "reference/ops/matrix.h"

namespace tandem::reference {

/// Channel `channel` of the sinusoidal encoding of `position`, position_offset not included.
/// kSinusoidal: PE(p, 2i) = sin(p / 10000^(2i/d)), PE(p, 2i+1) = cos(the same) (Vaswani et al. 2017,
/// section 3.5). kSinusoidalHalves: the d/2 sines first, then the d/2 cosines (Marian). With
/// sinusoid_spans_end (tensor2tensor, fairseq, M2M100, NLLB) frequency i is 10000^(-i/(d/2-1)) instead of
/// 10000^(-2i/d).
double sinusoid(const ModelConfig& config, int64_t position, int64_t channel);

struct EmbeddingParams {
  std::span<const int32_t> ids;          ///< [tokens], each in [0, vocab)
  std::span<const int32_t> positions;    ///< [tokens], counted from 0 within each sequence
  MatrixView table;                      ///< [vocab, d_model], or a rank's rows of it
  std::optional<int64_t> first_id = {};  ///< of a rank's rows; an id of another rank's gives zeros
  MatrixView position_table = {};  ///< [position_offset + max_positions, d_model]; learned positions only
};

/// embedding_scale * table[id] + encoding of (position + position_offset) -> [tokens, d_model]. Relative
/// positions add nothing here. Throws Error for an id or a position outside its table.
Matrix embed(const ModelConfig& config, const EmbeddingParams& p);

}  // namespace tandem::reference
