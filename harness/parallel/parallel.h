// How layers and heads are laid over ranks. What ranks say to each other is in communicator.h.
#pragma once

#include <cstdint>

#include "harness/model/config.h"

namespace tandem {

/// Half-open range of heads, columns or rows that a rank owns.
struct Slice {
  int first = 0;
  int count = 0;
  int end() const { return first + count; }
  bool operator==(const Slice&) const = default;
};

/// One side's layers over `degree` ranks, Megatron style (Shoeybi et al. 2019): each rank owns whole heads and an equal
/// share of d_ff; vocabulary slices are padded to a common size.
struct LayerParallelParam {
  int heads = 0;
  int degree = 1;
  int max_sequence = 0;
  int rank = 0;
  Slice head_slice;   ///< heads of this rank
  Slice ffn_slice;    ///< columns of d_ff of this rank
  Slice vocab_slice;  ///< ids of this rank; the last rank's may be shorter
};

/// The ids of one rank: equal shares, the last ranks' shorter. Throws UsageError for a degree or rank outside, ImpossibleCase
/// where a rank would have none.
Slice vocabulary_slice(int vocab, int degree, int rank);

/// Throws ImpossibleCase naming tp and the field that it does not divide (heads, d_ff), UsageError for a rank outside it.
LayerParallelParam layer_parallel(const StackConfig& stack, int vocab, int degree, int rank,
                                  int max_sequence);

/// The model as one rank of `degree` sees it: its share of the heads and of d_ff on both sides; d_model and the vocabulary stay
/// whole. Throws as layer_parallel().
ModelConfig rank_config(const ModelConfig& whole, int degree);

/// Where one rank stands among tp * dp ranks. Ranks of one replica are neighbours (rank = replica * tp + tensor_rank), so
/// that a replica stays within a host.
struct RankGroup {
  int tp = 1;           ///< ranks that share one replica's matrices
  int dp = 1;           ///< replicas
  int tensor_rank = 0;  ///< within the replica, 0 .. tp - 1
  int replica = 0;      ///< 0 .. dp - 1

  int size() const { return tp * dp; }
  int rank() const { return replica * tp + tensor_rank; }
  /// The rank that holds the same slice in another replica.
  int twin(int other_replica) const { return other_replica * tp + tensor_rank; }
  bool operator==(const RankGroup&) const = default;
};

/// Throws UsageError naming tp, dp or rank.
RankGroup rank_group(int tp, int dp, int rank);

}  // namespace tandem
