// How the values of one matrix lie in memory: their type, what is left out, what they are scaled by.
#pragma once

#include <cstdint>

#include "harness/base/tensor.h"
#include "harness/weights/form.h"

namespace tandem {

/// Rows are stored one after the other, each from a whole byte on; scales and metadata of a row likewise.
struct Storage {
  DType dtype = DType::kF32;  ///< of a stored value
  /// Two of every four neighbours of a row are stored, and two bits each say which. `cols` must be divisible by 8.
  bool two_of_four = false;
  /// Neighbours of a row that share a scale; the last group may be short. 0: there are no scales. kWholeRow: all of them.
  int scale_group = 0;
  DType scale_dtype = DType::kF32;

  static constexpr int kWholeRow = -1;

  /// Values of a row that are stored, of `cols`.
  int64_t stored_cols(int64_t cols) const { return two_of_four ? cols / 2 : cols; }
  /// Scales of a row of `cols`.
  int64_t scales_per_row(int64_t cols) const;
  int64_t value_row_bytes(int64_t cols) const { return tensor_bytes(dtype, stored_cols(cols)); }
  int64_t scale_row_bytes(int64_t cols) const { return tensor_bytes(scale_dtype, scales_per_row(cols)); }
  /// Two bits a stored value.
  int64_t metadata_row_bytes(int64_t cols) const { return two_of_four ? (stored_cols(cols) + 3) / 4 : 0; }
  /// All of it.
  int64_t row_bytes(int64_t cols) const {
    return value_row_bytes(cols) + scale_row_bytes(cols) + metadata_row_bytes(cols);
  }
  /// One value after the other, nothing else.
  bool plain() const { return !two_of_four && scale_group == 0; }
  bool operator==(const Storage&) const = default;
};

/// What a tensor is for: what its storage depends on.
enum class TensorUse : uint8_t {
  kProduct,  ///< a matrix that activations are multiplied with
  kHead,     ///< the vocabulary head
  kOther,    ///< norms, biases, positions, embedding tables: in the type of activations
};
Storage storage_of(const WeightForm& form, TensorUse use);
/// The same where the form is not plain: the grid that its values lie on.
Storage own_storage(WeightForm form, TensorUse use);

}  // namespace tandem
