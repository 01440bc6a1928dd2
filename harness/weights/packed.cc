#include "harness/weights/packed.h"

#include <fmt/format.h>

#include <cstring>

#include "harness/base/error.h"

namespace tandem {
namespace {

void check_rectangle(const PackedPlane& p, const Rectangle& at, size_t fields, size_t arena) {
  const bool inside = at.first_row >= 0 && at.rows >= 0 && at.first_row + at.rows <= p.rows &&
                      at.first_col >= 0 && at.cols >= 0 && at.first_col + at.cols <= p.cols;
  if (!inside || static_cast<int64_t>(fields) != at.size() ||
      p.offset + p.rows * p.row_bytes() > static_cast<int64_t>(arena)) {
    throw Error(fmt::format("packed: {} fields for rows {} + {}, columns {} + {} of [{}, {}] in {} bytes",
                            fields, at.first_row, at.rows, at.first_col, at.cols, p.rows, p.cols, arena));
  }
}

}  // namespace

PackedPlane value_plane(const TensorSpec& t) {
  return {t.offset, t.rows, t.storage.stored_cols(t.cols), dtype_bits(t.storage.dtype)};
}

PackedPlane scale_plane(const TensorSpec& t) {
  return {t.scale_offset, t.rows, t.storage.scales_per_row(t.cols), dtype_bits(t.storage.scale_dtype)};
}

PackedPlane metadata_plane(const TensorSpec& t) {
  return {t.metadata_offset, t.rows, t.storage.two_of_four ? t.storage.stored_cols(t.cols) : 0, 2};
}

void pack(const PackedPlane& p, const Rectangle& at, std::span<const uint32_t> fields,
          std::span<std::byte> arena) {
  check_rectangle(p, at, fields.size(), arena.size());
  size_t next = 0;
  for (int64_t row = at.first_row; row < at.first_row + at.rows; ++row) {
    std::byte* const start = arena.data() + p.offset + row * p.row_bytes();
    for (int64_t col = at.first_col; col < at.first_col + at.cols; ++col) {
      const uint32_t field = fields[next++];
      if (p.bits >= 8) {
        std::memcpy(start + col * p.bits / 8, &field, static_cast<size_t>(p.bits / 8));
        continue;
      }
      const auto shift = static_cast<unsigned>(col * p.bits % 8);
      const auto mask = static_cast<std::byte>(((1u << p.bits) - 1) << shift);
      std::byte& into = start[col * p.bits / 8];
      into = (into & ~mask) | (static_cast<std::byte>(field << shift) & mask);
    }
  }
}

std::vector<uint32_t> unpack(const PackedPlane& p, const Rectangle& at, std::span<const std::byte> arena) {
  check_rectangle(p, at, static_cast<size_t>(at.size()), arena.size());
  std::vector<uint32_t> fields;
  fields.reserve(static_cast<size_t>(at.size()));
  for (int64_t row = at.first_row; row < at.first_row + at.rows; ++row) {
    const std::byte* const start = arena.data() + p.offset + row * p.row_bytes();
    for (int64_t col = at.first_col; col < at.first_col + at.cols; ++col) {
      uint32_t field = 0;
      if (p.bits >= 8) {
        std::memcpy(&field, start + col * p.bits / 8, static_cast<size_t>(p.bits / 8));
      } else {
        field = static_cast<uint32_t>(start[col * p.bits / 8]) >> (col * p.bits % 8) & ((1u << p.bits) - 1);
      }
      fields.push_back(field);
    }
  }
  return fields;
}

}  // namespace tandem
