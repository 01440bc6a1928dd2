#include "kernels/ops/op_sparsity.h"

#include <cstring>

#include "harness/base/host_device.h"
#include "harness/base/random.h"
#include "harness/sweep/case_batch.h"
#include "harness/weights/pruning/pruning.h"

namespace tandem::kernels {
namespace {

/// The pairs of four neighbours as two fields of two bits, the first in the low ones.
constexpr uint8_t kPairs[] = {0 | 1 << 2, 0 | 2 << 2, 0 | 3 << 2, 1 | 2 << 2, 1 | 3 << 2, 2 | 3 << 2};

uint32_t start_of(const std::vector<uint8_t>& starts, int64_t row) {
  uint32_t start = 0;
  std::memcpy(&start, starts.data() + row * static_cast<int64_t>(sizeof(start)), sizeof(start));
  return start;
}

}  // namespace

OpSparsity::OpSparsity(const Storage& storage, int64_t rows, int64_t cols, double removed)
    : values(rows * storage.stored_cols(cols)), kept(values) {
  const uint64_t key = stream_key(kInputSeed, "op.sparsity");
  if (storage.two_of_four) {
    const int64_t row_bytes = storage.metadata_row_bytes(cols);
    metadata.assign(static_cast<size_t>(rows * row_bytes), 0);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t g = 0; g < cols / 4; ++g) {
        const uint32_t pair = uniform_below(key, static_cast<uint64_t>(row * (cols / 4) + g), 6);
        metadata[static_cast<size_t>(row * row_bytes + g / 2)] |=
            static_cast<uint8_t>(kPairs[pair] << (4 * (g % 2)));
      }
    }
  }
  if (!storage.bitmap) return;
  const int64_t row_bytes = storage.bitmap_row_bytes(cols);
  const auto threshold = static_cast<uint64_t>(removed * 0x1p32);
  bitmap.assign(static_cast<size_t>(rows * row_bytes), 0);
  starts.assign(static_cast<size_t>(rows + 1) * sizeof(uint32_t), 0);
  kept = 0;
  uint32_t start = 0;
  const auto put_start = [&](int64_t row) { std::memcpy(starts.data() + row * 4, &start, sizeof(start)); };
  for (int64_t row = 0; row < rows; ++row) {
    put_start(row);
    int64_t stored = 0;
    for (int64_t col = 0; col < cols; ++col) {
      if (random_bits(key, static_cast<uint64_t>(row * cols + col)) >> 32 < threshold) continue;
      bitmap[static_cast<size_t>(row * row_bytes + col / 8)] |= static_cast<uint8_t>(1 << (col % 8));
      ++stored;
    }
    kept += stored;
    start += static_cast<uint32_t>(storage.packed_row_bytes(stored) / Storage::kRowStartBytes);
  }
  put_start(rows);
  values = start * Storage::kRowStartBytes / dtype_bytes(storage.dtype);
}

std::vector<int64_t> OpSparsity::columns(const Storage& storage, int64_t row, int64_t cols) const {
  std::vector<int64_t> stored;
  if (storage.two_of_four) {
    const uint8_t* const marks = metadata.data() + row * storage.metadata_row_bytes(cols);
    for (int64_t i = 0; i < cols / 2; ++i) stored.push_back(i / 2 * 4 + (marks[i / 4] >> (i % 4 * 2) & 3));
    return stored;
  }
  const uint8_t* const bits = storage.bitmap ? bitmap.data() + row * storage.bitmap_row_bytes(cols) : nullptr;
  for (int64_t col = 0; col < cols; ++col) {
    if (bits == nullptr || (bits[col / 8] >> (col % 8) & 1) != 0) stored.push_back(col);
  }
  return stored;
}

int64_t OpSparsity::first_value(const Storage& storage, int64_t row, int64_t cols) const {
  if (!storage.bitmap) return row * storage.stored_cols(cols);
  return start_of(starts, row) * Storage::kRowStartBytes / dtype_bytes(storage.dtype);
}

Storage op_storage(const Storage& dense, const SparsitySpec& sparsity) {
  Storage storage = dense;
  storage.bitmap = sparsity.unstructured >= kBitmapLeastRemoved;
  return storage;
}

}  // namespace tandem::kernels
