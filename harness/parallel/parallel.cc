#include "harness/parallel/parallel.h"

#include <fmt/format.h>

#include <algorithm>

#include "harness/base/error.h"
#include "harness/base/host_device.h"

namespace tandem {
namespace {

Slice equal_share(const char* field, int total, int degree, int rank) {
  if (total % degree != 0) {
    throw ImpossibleCase(fmt::format("tp: {} does not divide {} {}", degree, field, total));
  }
  return {rank * (total / degree), total / degree};
}

}  // namespace

RankGroup rank_group(int tp, int dp, int rank) {
  if (tp < 1) throw UsageError(fmt::format("tp: {} is not 1 or more", tp));
  if (dp < 1) throw UsageError(fmt::format("dp: {} is not 1 or more", dp));
  if (rank < 0 || rank >= tp * dp)
    throw UsageError(fmt::format("rank: {} is not from 0 to {}", rank, tp * dp - 1));
  return {.tp = tp, .dp = dp, .tensor_rank = rank % tp, .replica = rank / tp};
}

Slice vocabulary_slice(int vocab, int degree, int rank) {
  if (degree < 1) throw UsageError(fmt::format("tp: {} is not allowed; 1, 2, 4 or 8", degree));
  if (rank < 0 || rank >= degree)
    throw UsageError(fmt::format("rank: {} is not allowed; from 0 to {}", rank, degree - 1));
  const int share = ceil_div(vocab, degree);
  if ((degree - 1) * share >= vocab)
    throw ImpossibleCase(fmt::format("tp: {} leaves a rank no id of vocab {}", degree, vocab));
  const int first = rank * share;
  return {first, std::min(share, vocab - first)};
}

LayerParallelParam layer_parallel(const StackConfig& stack, int vocab, int degree, int rank,
                                  int max_sequence) {
  const Slice ids = vocabulary_slice(vocab, degree, rank);
  return {.heads = stack.heads,
          .degree = degree,
          .max_sequence = max_sequence,
          .rank = rank,
          .head_slice = equal_share("heads", stack.heads, degree, rank),
          .ffn_slice = equal_share("d_ff", stack.d_ff, degree, rank),
          .vocab_slice = ids};
}

ModelConfig rank_config(const ModelConfig& whole, int degree) {
  ModelConfig config = whole;
  for (StackConfig* stack : {&config.encoder, &config.decoder}) {
    const LayerParallelParam share = layer_parallel(*stack, whole.vocab, degree, 0, 0);
    stack->heads = share.head_slice.count;
    stack->d_ff = share.ffn_slice.count;
  }
  return config;
}

}  // namespace tandem
