// The parts of a stored tensor as planes of small integers: codes, scales and metadata, wherever a layout puts them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "harness/weights/layout.h"
#include "harness/weights/values/source.h"
#include "harness/weights/weights.h"

namespace tandem {

/// Fields of 1, 2, 4, 8, 16 or 32 bits in rows that start at whole bytes; the first field of a byte is its lowest.
struct PackedPlane {
  int64_t offset = 0;  ///< bytes from the start of the arena
  int64_t rows = 0;
  int64_t cols = 0;  ///< fields of a row
  int bits = 0;
  int64_t row_unit = 1;  ///< rows start at multiples of so many bytes
  int64_t row_bytes() const { return (cols * bits + 8 * row_unit - 1) / (8 * row_unit) * row_unit; }
};

/// The stored values as bits (i4 and i8: two's complement); cols are those that are stored. Not with a bitmap.
PackedPlane value_plane(const TensorSpec& tensor);
/// The scales as bits of their type; one column a group. No columns where the storage has none.
PackedPlane scale_plane(const TensorSpec& tensor);
/// For each stored value of 2:4, which of its four neighbours it is, 0 to 3. No columns where the storage has none.
PackedPlane metadata_plane(const TensorSpec& tensor);
/// For each value whether it is stored. No columns where the storage has no bitmap.
PackedPlane bitmap_plane(const TensorSpec& tensor);
/// The stored values of one row of a bitmap's storage; `stored` of them.
PackedPlane bitmap_row_plane(const TensorSpec& tensor, int64_t row, int64_t stored);
/// Where the rows of a bitmap's storage start, and where the last one ends: one row of rows + 1.
PackedPlane starts_plane(const TensorSpec& tensor);

/// Writes a rectangle of fields; a field's bits above its width must be 0. Throws Error for a rectangle outside the plane.
void pack(const PackedPlane& plane, const Rectangle& at, std::span<const uint32_t> fields,
          std::span<std::byte> arena);
std::vector<uint32_t> unpack(const PackedPlane& plane, const Rectangle& at, std::span<const std::byte> arena);

/// Which two of four neighbours 2:4 keeps: the larger magnitudes, of equal ones the lower index. In rising order.
std::array<int, 2> two_of_four(std::span<const float, 4> values);
/// [rows, in] of a matrix that is stored without some of its elements, as bits; those are 0. `weight` is in host memory.
std::vector<uint32_t> unpack_sparse(const DenseWeight& weight);

}  // namespace tandem
