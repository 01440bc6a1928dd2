// Weights of which only some are stored, made from plain loops: for tests and measurements.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "harness/base/half.h"
#include "harness/base/host_device.h"
#include "kernels/skinny/skinny.h"

namespace tandem::kernels {

/// A bf16 matrix [rows, k] as SkinnyParams takes it, its parts in one piece of memory, each on 256 bytes.
struct SparseMatrix {
  SparseWeights form = SparseWeights::kNone;
  std::vector<uint8_t> bytes;  ///< the stored values first
  int64_t marks_at = 0;        ///< metadata or bitmap
  int64_t starts_at = 0;
  int64_t used = 0;           ///< bytes without gaps
  std::vector<float> values;  ///< [rows, k], 0 where nothing is stored

  /// `kept` [rows, k]: of 2:4 at most two of every four. A row's last bytes, up to the next row's, are those of a NaN.
  SparseMatrix(SparseWeights sparse, const std::vector<float>& all, const std::vector<uint8_t>& kept,
               int64_t k)
      : form(sparse), values(all) {
    const int64_t rows = static_cast<int64_t>(all.size()) / k;
    std::vector<uint16_t> stored;
    std::vector<uint8_t> marks;
    std::vector<uint32_t> starts;
    for (size_t i = 0; i < values.size(); ++i) values[i] = kept[i] != 0 ? values[i] : 0.0f;
    if (form == SparseWeights::kTwoOfFour) {
      marks.assign(static_cast<size_t>(rows * k / 8), 0);
      for (size_t i = 0; i < values.size(); i += 4) {
        for (const int j : two_of(&kept[i])) {
          marks[stored.size() / 4] |= static_cast<uint8_t>(j << (stored.size() % 4 * 2));
          stored.push_back(float_to_bf16(values[i + static_cast<size_t>(j)]));
        }
      }
    } else {
      const int64_t row_bytes = 4 * ceil_div(k, int64_t{32});
      marks.assign(static_cast<size_t>(rows * row_bytes), 0);
      for (int64_t r = 0; r < rows; ++r) {
        starts.push_back(static_cast<uint32_t>(stored.size() / 8));
        for (int64_t c = 0; c < k; ++c) {
          if (kept[static_cast<size_t>(r * k + c)] == 0) continue;
          marks[static_cast<size_t>(r * row_bytes + c / 8)] |= static_cast<uint8_t>(1 << (c % 8));
          stored.push_back(float_to_bf16(values[static_cast<size_t>(r * k + c)]));
        }
        while (stored.size() % 8 != 0) stored.push_back(0x7fc0);
      }
      starts.push_back(static_cast<uint32_t>(stored.size() / 8));
    }
    used = static_cast<int64_t>(2 * stored.size() + marks.size() + 4 * starts.size());
    marks_at = round_up(static_cast<int64_t>(2 * stored.size()), int64_t{256});
    starts_at = marks_at + round_up(static_cast<int64_t>(marks.size()), int64_t{256});
    bytes.assign(static_cast<size_t>(starts_at) + 4 * starts.size(), 0xff);
    if (!stored.empty()) std::memcpy(bytes.data(), stored.data(), 2 * stored.size());
    std::memcpy(&bytes[static_cast<size_t>(marks_at)], marks.data(), marks.size());
    if (!starts.empty())
      std::memcpy(&bytes[static_cast<size_t>(starts_at)], starts.data(), 4 * starts.size());
  }

  /// Sets the pointers of a product whose weights' bytes are at `at` on the device.
  void put(SkinnyParams& p, const void* at) const {
    const auto* base = static_cast<const unsigned char*>(at);
    p.w = base;
    p.metadata = form == SparseWeights::kTwoOfFour ? base + marks_at : nullptr;
    p.bitmap = form == SparseWeights::kBitmap ? reinterpret_cast<const uint32_t*>(base + marks_at) : nullptr;
    p.row_starts =
        form == SparseWeights::kBitmap ? reinterpret_cast<const uint32_t*>(base + starts_at) : nullptr;
  }

 private:
  /// Those that are kept, and others where they are fewer than two; rising.
  static std::vector<int> two_of(const uint8_t* kept) {
    std::vector<int> two;
    for (int j = 0; j < 4; ++j) {
      if (kept[j] != 0) two.push_back(j);
    }
    for (int j = 0; j < 4 && two.size() < 2; ++j) {
      if (kept[j] == 0) two.push_back(j);
    }
    std::sort(two.begin(), two.end());
    return two;
  }
};

/// Which of [rows, k] are kept. 2:4: two of four, now and then one or none. Else of each row a share of its own: `share`, or,
/// if `uneven`, for some rows all, nothing or any.
template <class Engine>
std::vector<uint8_t> random_kept(Engine& engine, SparseWeights form, int64_t rows, int64_t k, double share,
                                 bool uneven) {
  std::vector<uint8_t> kept(static_cast<size_t>(rows * k), 0);
  for (int64_t r = 0; r < rows; ++r) {
    uint8_t* row = &kept[static_cast<size_t>(r * k)];
    if (form == SparseWeights::kTwoOfFour) {
      for (int64_t i = 0; i < k; i += 4) {
        const auto draw = static_cast<uint32_t>(engine());
        const uint32_t first = draw % 4;
        const uint32_t second = (first + 1 + draw / 4 % 3) % 4;
        const uint32_t fewer = draw / 64 % 16;
        if (fewer != 0) row[i + first] = 1;
        if (fewer > 1) row[i + second] = 1;
      }
      continue;
    }
    const auto kind = uneven ? static_cast<uint32_t>(engine()) % 5 : 4u;
    const double own = kind == 0   ? 0.0
                       : kind == 1 ? 1.0
                       : kind == 2 ? std::uniform_real_distribution<double>(0, 1)(engine)
                                   : share;
    for (int64_t i = 0; i < k; ++i)
      row[i] = std::uniform_real_distribution<double>(0, 1)(engine) < own ? 1 : 0;
  }
  return kept;
}

}  // namespace tandem::kernels
