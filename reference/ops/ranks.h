// Where the ranks that a model is laid over meet. Without ranks (null) each function does what the whole model does.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "harness/model/config.h"
#include "harness/parallel/communicator.h"
#include "reference/ops/matrix.h"
#include "reference/ops/quantise.h"

namespace tandem::reference {

/// The product that ends a sublayer: x [tokens, in] of this rank -> [tokens, out], the sum of all ranks' parts in fp32; the
/// bias is rank 0's.
Matrix last_product(MatrixView x, const DenseWeight& w, const Numerics& numerics);

/// x becomes the sum of all ranks' x, in the order of ranks: the same bits on each.
void sum_over_ranks(Matrix& x, Communicator* ranks);

/// Which ids of the vocabulary scores are of: `first` and the following ones.
struct VocabularyPart {
  int64_t first = 0;
  Communicator* ranks = nullptr;  ///< who have the others; null: all are here

  /// The place of `id` among `count` scores, or -1 where another rank has it.
  int64_t place(int64_t id, size_t count) const {
    return id >= first && id < first + static_cast<int64_t>(count) ? id - first : -1;
  }
};
VocabularyPart vocabulary_part(const ModelConfig& config, Communicator* ranks);
/// Head or table of a rank without the rows that only fill it up.
DenseWeight without_padding(const DenseWeight& head, const ModelConfig& config, Communicator* ranks);

/// As many values of every rank, in the order of ranks.
template <typename T>
std::vector<T> from_ranks(Communicator* ranks, std::span<const T> mine) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (ranks == nullptr) return {mine.begin(), mine.end()};
  std::vector<T> all(mine.size() * static_cast<size_t>(ranks->size()));
  ranks->all_gather(mine.data(), all.data(), static_cast<int64_t>(mine.size_bytes()), nullptr);
  return all;
}
template <typename T>
std::vector<T> from_ranks(Communicator* ranks, const T& mine) {
  return from_ranks(ranks, std::span<const T>(&mine, 1));
}
/// The sum of every rank's value, in the order of ranks.
double sum_of_ranks(Communicator* ranks, double mine);

/// Logits [tokens, ids of this rank] of every rank -> [tokens, vocab]. What a comparison needs; choosing does without.
Matrix whole_logits(Matrix logits, const ModelConfig& config, Communicator* ranks);

}  // namespace tandem::reference
