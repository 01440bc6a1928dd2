#include "harness/weights/packed.h"

#include <fmt/format.h>

#include <algorithm>
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

PackedPlane bitmap_plane(const TensorSpec& t) {
  return {t.bitmap_offset, t.rows, t.storage.bitmap ? t.cols : 0, 1, Storage::kBitmapRowBytes};
}

PackedPlane bitmap_row_plane(const TensorSpec& t, int64_t row, int64_t stored) {
  const int64_t start = t.row_starts[static_cast<size_t>(row)] * Storage::kRowStartBytes;
  return {t.group_offset + start, 1, stored, dtype_bits(t.storage.dtype)};
}

PackedPlane starts_plane(const TensorSpec& t) {
  return {t.starts_offset, 1, t.storage.bitmap ? t.rows + 1 : 0, 32};
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

std::array<int, 2> two_of_four(std::span<const float, 4> values) {
  int first = 0, second = -1;  // by magnitude
  for (int i = 1; i < 4; ++i) {
    const uint32_t bits = magnitude_bits(values[static_cast<size_t>(i)]);
    if (bits > magnitude_bits(values[static_cast<size_t>(first)])) {
      second = first;
      first = i;
    } else if (second < 0 || bits > magnitude_bits(values[static_cast<size_t>(second)])) {
      second = i;
    }
  }
  return {std::min(first, second), std::max(first, second)};
}

std::vector<uint32_t> unpack_sparse(const DenseWeight& w) {
  const int64_t rows = w.weight.rows, cols = w.in();
  const int bits = dtype_bits(w.weight.dtype);
  std::vector<uint32_t> all(static_cast<size_t>(rows * cols));
  // `cols` fields of one row that lie from `at` on.
  const auto row_of = [](const void* at, int64_t fields, int width) {
    const PackedPlane plane{.rows = 1, .cols = fields, .bits = width};
    return unpack(plane, {.rows = 1, .cols = fields},
                  {static_cast<const std::byte*>(at), static_cast<size_t>(plane.row_bytes())});
  };
  const auto* values = w.weight.as<std::byte>();
  for (int64_t r = 0; r < rows; ++r) {
    uint32_t* row = all.data() + r * cols;
    if (w.two_of_four) {
      const int64_t stored = w.weight.cols;
      const auto fields = row_of(values + r * tensor_bytes(w.weight.dtype, stored), stored, bits);
      const auto marks =
          row_of(static_cast<const std::byte*>(w.metadata) + r * ((stored + 3) / 4), stored, 2);
      for (size_t i = 0; i < fields.size(); ++i) row[i / 2 * 4 + marks[i]] = fields[i];
      continue;
    }
    const int64_t row_bytes = Storage{.bitmap = true}.bitmap_row_bytes(cols);
    const auto kept = row_of(static_cast<const std::byte*>(w.bitmap) + r * row_bytes, cols, 1);
    const auto stored = std::ranges::count(kept, 1u);
    const auto fields = row_of(values + w.row_starts[r] * Storage::kRowStartBytes, stored, bits);
    size_t next = 0;
    for (size_t c = 0; c < kept.size(); ++c) {
      if (kept[c] != 0) row[c] = fields[next++];
    }
  }
  return all;
}

}  // namespace tandem
