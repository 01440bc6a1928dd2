// What is removed from a model, decided before anything is laid out: whole heads, inner dimensions and layers, and single
// weights of the matrices that stay.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

namespace tandem {

/// What structured pruning keeps of one side, as indices of the whole model in rising order. Empty: everything. The lists of
/// heads and ffn are one a kept layer; each list of a field has the same length.
struct KeptStack {
  std::vector<int> layers = {};
  std::vector<std::vector<int>> self_heads = {};
  std::vector<std::vector<int>> cross_heads = {};  ///< decoder; as many as self_heads
  std::vector<std::vector<int>> ffn = {};          ///< inner dimensions of the FFN
  bool operator==(const KeptStack&) const = default;
};
struct Kept {
  KeptStack encoder = {}, decoder = {};
  bool operator==(const Kept&) const = default;
};

/// A magnitude as an integer of the same order; a NaN has the largest.
inline uint32_t magnitude_bits(float value) {
  return std::bit_cast<uint32_t>(value) & 0x7fffffffu;
}

/// Which weights of one matrix are kept: those of a larger magnitude than the threshold, and those equal to it up to an index.
/// An index is row * columns + column of the whole tensor, so that every part of a matrix has the whole one's mask.
struct MatrixCut {
  uint32_t threshold = 0;  ///< magnitude_bits
  int64_t last_tie = std::numeric_limits<int64_t>::max();

  bool keeps(float value, int64_t index) const {
    const uint32_t bits = magnitude_bits(value);
    return bits > threshold || (bits == threshold && index <= last_tie);
  }
  bool operator==(const MatrixCut&) const = default;
};

struct PrunedMatrix {
  MatrixCut cut = {};
  int64_t size = 0;                     ///< values of the matrix, of all ranks
  int64_t kept = 0;                     ///< of them
  std::vector<uint32_t> row_kept = {};  ///< of each row that is here: the slice's rows and columns
};

struct Pruning {
  Kept kept = {};
  /// By the tensor's name in the smaller model, "decoder.layers.1.ffn.up.weight": every matrix of a form that removes weights by
  /// their magnitude.
  std::map<std::string, PrunedMatrix> matrices = {};
  /// Nobody has looked at the values: sizes are what the form's fractions make them (expected_pruning).
  bool expected = false;
};

/// A group of matrices is stored with a bitmap where at least so much of it is removed: below, the bits cost more than they save.
inline constexpr double kBitmapLeastRemoved = 0.3;

}  // namespace tandem
