// What every sub-layer of both sides is wrapped in: a residual connection and a norm.
#pragma once

#include <utility>
#include <vector>

#include "harness/model/batch.h"
#include "harness/model/config.h"
#include "harness/parallel/communicator.h"
#include "harness/weights/weights.h"
#include "reference/ops/matrix.h"

namespace tandem::reference {

/// The model's norm, layer or rms, of x [tokens, d_model].
Matrix normalise(const ModelConfig& config, const NormWeight& w, MatrixView x);

/// Post-norm: norm(x + sublayer(x)), as in the original paper. Pre-norm: x + sublayer(norm(x)).
template <typename Sublayer>
Matrix residual(const ModelConfig& config, const NormWeight& norm, MatrixView x, Sublayer&& sublayer) {
  if (config.placement == NormPlacement::kPre) return add(x, sublayer(normalise(config, norm, x)));
  return normalise(config, norm, add(x, sublayer(x)));
}

/// Embedding, position and, where the model has one, the norm after them, for tokens of one side; each
/// rank has some rows of the table. [tokens, d_model]
Matrix embed_tokens(const ModelConfig& config, const StackWeight& w, std::span<const int32_t> ids,
                    std::span<const int32_t> positions, Communicator* ranks = nullptr);

/// 0, 1, 2, ... within each sequence, packed [tokens].
std::vector<int32_t> packed_positions(const TransformerBatch& batch);

}  // namespace tandem::reference
