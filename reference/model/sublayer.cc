#include "reference/model/sublayer.h"

#include <numeric>

#include "harness/parallel/parallel.h"
#include "reference/ops/embedding.h"
#include "reference/ops/norm.h"
#include "reference/ops/ranks.h"

namespace tandem::reference {

Matrix normalise(const ModelConfig& config, const NormWeight& w, MatrixView x) {
  return config.norm == Norm::kLayer ? layer_norm(x, w, config.norm_eps) : rms_norm(x, w, config.norm_eps);
}

Matrix embed_tokens(const ModelConfig& config, const StackWeight& w, std::span<const int32_t> ids,
                    std::span<const int32_t> positions, Communicator* ranks) {
  EmbeddingParams p{.ids = ids, .positions = positions, .table = w.embedding, .position_table = w.position};
  if (ranks != nullptr) {
    const Slice mine = vocabulary_slice(config.vocab, ranks->size(), ranks->rank());
    p.table.rows = mine.count;
    p.first_id = mine.first;
  }
  Matrix x = embed(config, p);
  sum_over_ranks(x, ranks);
  return config.embedding_norm ? normalise(config, w.embedding_norm, x) : x;
}

std::vector<int32_t> packed_positions(const TransformerBatch& batch) {
  std::vector<int32_t> positions(batch.tokens());
  for (int b = 0; b < batch.size(); ++b) {
    std::iota(positions.begin() + batch.offsets[b], positions.begin() + batch.offsets[b + 1], 0);
  }
  return positions;
}

}  // namespace tandem::reference
