#include "reference/ops/ranks.h"

#include <fmt/format.h>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "harness/parallel/parallel.h"
#include "reference/ops/dense.h"

namespace tandem::reference {
Matrix last_product(MatrixView x, const DenseWeight& w, const Numerics& numerics) {
  DenseWeight mine = w;
  if (numerics.ranks != nullptr && numerics.ranks->rank() != 0) mine.bias = {};
  if (numerics.input_parts == 1 || !w.input_dtype) {
    Matrix y = dense(x, mine, numerics);
    sum_over_ranks(y, numerics.ranks);
    return y;
  }
  // Of a whole model: as so many ranks would quantise it, each with the scale of its own columns.
  if (numerics.ranks != nullptr) throw Error("input_parts are a whole model's");
  Matrix rounded;
  if (numerics.bf16_inputs) x = rounded = bf16_values(x);
  const Matrix parts = quantised_heads(x, *w.input_dtype, static_cast<int>(x.cols / numerics.input_parts));
  mine.input_dtype = {};
  Numerics plain = numerics;
  plain.bf16_inputs = false;
  return dense(parts, mine, plain);
}

void sum_over_ranks(Matrix& x, Communicator* ranks) {
  if (ranks != nullptr)
    ranks->all_reduce_sum(x.values.data(), static_cast<int64_t>(x.values.size()), DType::kF32, nullptr);
}

VocabularyPart vocabulary_part(const ModelConfig& config, Communicator* ranks) {
  if (ranks == nullptr) return {};
  return {.first = vocabulary_slice(config.vocab, ranks->size(), ranks->rank()).first, .ranks = ranks};
}

DenseWeight without_padding(const DenseWeight& head, const ModelConfig& config, Communicator* ranks) {
  if (ranks == nullptr) return head;
  DenseWeight w = head;
  w.weight.rows = vocabulary_slice(config.vocab, ranks->size(), ranks->rank()).count;
  if (!w.bias.empty()) w.bias.cols = w.weight.rows;
  return w;
}

double sum_of_ranks(Communicator* ranks, double mine) {
  double sum = 0;
  for (const double part : from_ranks(ranks, mine)) sum += part;
  return sum;
}

Matrix whole_logits(Matrix logits, const ModelConfig& config, Communicator* ranks) {
  if (ranks == nullptr) return logits;
  const int64_t share = ceil_div(config.vocab, ranks->size());
  Matrix padded(logits.rows, share);
  for (int64_t r = 0; r < logits.rows; ++r) std::copy_n(logits.row(r), logits.cols, padded.row(r));
  const std::vector<float> all = from_ranks(ranks, std::span<const float>(padded.values));
  Matrix whole(logits.rows, config.vocab);
  for (int rank = 0; rank < ranks->size(); ++rank) {
    const Slice ids = vocabulary_slice(config.vocab, ranks->size(), rank);
    for (int64_t r = 0; r < logits.rows; ++r)
      std::copy_n(all.data() + (rank * logits.rows + r) * share, ids.count, whole.row(r) + ids.first);
  }
  return whole;
}

}  // namespace tandem::reference
