// The parts of a stored tensor as planes of small integers: codes, scales and metadata, wherever a layout puts them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "harness/weights/layout.h"
#include "harness/weights/values/source.h"

namespace tandem {

/// Fields of 2, 4, 8, 16 or 32 bits in rows that start at whole bytes; the first field of a byte is its lowest.
struct PackedPlane {
  int64_t offset = 0;  ///< bytes from the start of the arena
  int64_t rows = 0;
  int64_t cols = 0;  ///< fields of a row
  int bits = 0;
  int64_t row_bytes() const { return (cols * bits + 7) / 8; }
};

/// The stored values as bits (i4 and i8: two's complement); cols are those that are stored.
PackedPlane value_plane(const TensorSpec& tensor);
/// The scales as bits of their type; one column a group. No columns where the storage has none.
PackedPlane scale_plane(const TensorSpec& tensor);
/// For each stored value of 2:4, which of its four neighbours it is, 0 to 3. No columns where the storage has none.
PackedPlane metadata_plane(const TensorSpec& tensor);

/// Writes a rectangle of fields; a field's bits above its width must be 0. Throws Error for a rectangle outside the plane.
void pack(const PackedPlane& plane, const Rectangle& at, std::span<const uint32_t> fields,
          std::span<std::byte> arena);
std::vector<uint32_t> unpack(const PackedPlane& plane, const Rectangle& at, std::span<const std::byte> arena);

}  // namespace tandem
