// Which weights go. A twin in Python (scripts/peers/twin) chooses the same.
//
// Structured parts come first, each by its norm, the sum of squares of its weights in double: a layer by all its matrices (of
// the products), a head by its rows of q, k and v and its columns of out, an inner dimension of an FFN by its rows of gate and up
// and its column of down. The smallest go; of equal ones the lowest index stays. Heads and inner dimensions are chosen in the
// layers that stay, self-attention and cross-attention each for itself.
//
// Single weights then go from each matrix of what stays, of all ranks, by their values before rounding: unstructured:R the
// floor(R * size) smallest magnitudes, of equal ones the lowest index stays; threshold:T the magnitudes below T; 2:4 two of each
// four neighbours of a row, likewise. These are the matrices of layers (TensorUse::kProduct), each for itself: not the head.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "harness/model/config.h"
#include "harness/weights/form.h"
#include "harness/weights/layout.h"
#include "harness/weights/pruning/pruning.h"
#include "harness/weights/values/source.h"

namespace tandem {

/// What a threshold removes; nothing of a sparsity without one.
MatrixCut given_cut(const SparsitySpec& sparsity);
/// Chooses the weights of one matrix by their magnitude, as prune() itself does: a card does it faster. `of_model` is the
/// smaller model's matrix, of all ranks; `here` the part of it whose rows are counted.
using MatrixPruner =
    std::function<PrunedMatrix(const SparsitySpec&, const TensorSpec& of_model, const TensorSpec& here)>;
/// Reads the whole model. `form.slice` says of which rows the counts are. `matrices`, where it is given, looks at the matrices
/// instead. Throws ImpossibleCase where nothing of a matrix, a layer or a stack would stay, or no part would go, and what the
/// source throws.
Pruning prune(const WeightSource& source, const ModelConfig& config, const WeightForm& form,
              const MatrixPruner& matrices = {});
/// The model that whole parts leave, which does not depend on the values. Throws ImpossibleCase where no part would go or none
/// stay.
ModelConfig smaller_config(const ModelConfig& config, const SparsitySpec& sparsity);
/// Throws ImpossibleCase for a threshold above every value that the seed can give a matrix: before anything is read.
void check_threshold(const WeightsSpec& seed, const ModelConfig& config, const SparsitySpec& sparsity);
/// What a form removes as far as it is known without the values: sizes are right for fractions (rows alike), and for a threshold
/// everything is taken to stay. Lists hold the first indices. For predictions: weights of it are not made.
Pruning expected_pruning(const ModelConfig& config, const WeightForm& form);

/// Values of a rectangle of a tensor before rounding, what is removed set to 0. `kept` [as many]: 1 for those that stay; may be
/// empty.
void read_kept(const WeightSource& source, const SparsitySpec& sparsity, const TensorSpec& tensor,
               const Rectangle& at, std::span<float> out, std::span<uint8_t> kept = {});

/// So many units of a kind are gone: "weights" of the model, "decoder layers", "encoder heads" of each layer that stays.
struct RemovedPart {
  std::string what = {};
  int64_t removed = 0;
  int64_t of = 0;
  std::vector<int> which = {};  ///< of layers
  bool operator==(const RemovedPart&) const = default;
};

/// Weights of a model, each counted once however often it is stored: of the dense one, and of them what is kept.
struct WeightCount {
  int64_t dense = 0;
  int64_t kept = 0;
  int64_t products = 0;  ///< of what is kept: matrices of layers, with what is removed from them by magnitude
  int64_t products_kept = 0;  ///< and without
  std::vector<RemovedPart> removed = {};
  double fraction_kept() const { return static_cast<double>(kept) / static_cast<double>(dense); }
};
WeightCount count_weights(const ModelConfig& config, const WeightForm& form, const Pruning& pruning);

}  // namespace tandem
