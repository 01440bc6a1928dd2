// How the values of one matrix lie in memory: their type, what is left out, what they are scaled by.
#pragma once

#include <cstdint>

#include "harness/base/tensor.h"
#include "harness/weights/form.h"

namespace tandem {

/// Rows are stored one after the other, each from a whole byte on; scales and metadata of a row likewise.
struct Storage {
  DType dtype = DType::kF32;  ///< of a stored value
  /// Two of every four neighbours of a row are stored, and two bits each say which. `cols` must be divisible by 4.
  bool two_of_four = false;
  /// A bit an element says which are stored, the others are 0: see kBitmapRowBytes and kRowStartBytes.
  bool bitmap = false;
  /// Neighbours of a row that share a scale; the last group may be short. 0: there are no scales. kWholeRow: all of them.
  int scale_group = 0;
  DType scale_dtype = DType::kF32;

  static constexpr int kWholeRow = -1;
  /// Rows of a bitmap start at multiples of so many bytes: whole words. Its lowest bit is the first element.
  static constexpr int64_t kBitmapRowBytes = 4;
  /// The stored values of a row start at multiples of so many bytes, which is the unit of row starts: where each row starts, from
  /// the group's first value on, and after the last one where it ends.
  static constexpr int64_t kRowStartBytes = 16;

  /// Values of a row that are stored, of `cols`; of a bitmap's rows each has its own number.
  int64_t stored_cols(int64_t cols) const { return two_of_four ? cols / 2 : cols; }
  /// Scales of a row of `cols`.
  int64_t scales_per_row(int64_t cols) const;
  int64_t value_row_bytes(int64_t cols) const { return tensor_bytes(dtype, stored_cols(cols)); }
  int64_t scale_row_bytes(int64_t cols) const { return tensor_bytes(scale_dtype, scales_per_row(cols)); }
  /// Two bits a stored value.
  int64_t metadata_row_bytes(int64_t cols) const { return two_of_four ? (stored_cols(cols) + 3) / 4 : 0; }
  /// A bit an element.
  int64_t bitmap_row_bytes(int64_t cols) const {
    return bitmap ? (cols + 8 * kBitmapRowBytes - 1) / (8 * kBitmapRowBytes) * kBitmapRowBytes : 0;
  }
  /// Of a bitmap: from this row's first value to the next row's, where `stored` of its values are.
  int64_t packed_row_bytes(int64_t stored) const {
    return (tensor_bytes(dtype, stored) + kRowStartBytes - 1) / kRowStartBytes * kRowStartBytes;
  }
  /// All of it, but for a bitmap: its rows differ.
  int64_t row_bytes(int64_t cols) const {
    return value_row_bytes(cols) + scale_row_bytes(cols) + metadata_row_bytes(cols);
  }
  /// One value after the other, nothing else.
  bool plain() const { return !two_of_four && !bitmap && scale_group == 0; }
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
