// What tests of codes share: rows quantised by tandem::quantise_row, and values that make its edges likely.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "harness/weights/values/quantise.h"
#include "kernels/common/device_test.h"

namespace tandem::kernels {

inline constexpr DType kCodeTypes[] = {DType::kF8, DType::kI8};

struct HostCodes {
  std::vector<uint8_t> codes;  ///< [values]
  std::vector<float> scales;   ///< [values / group]
  std::vector<float> values;   ///< [values]: code * scale
};
/// `values` in groups of `group`, each with a scale of its own.
inline HostCodes host_codes(std::span<const float> values, int64_t group, DType code) {
  const Storage storage{.dtype = code, .scale_group = Storage::kWholeRow};
  HostCodes host;
  const auto n = static_cast<size_t>(group);
  std::vector<uint32_t> codes(n);
  std::vector<float> back(n);
  for (size_t i = 0; i < values.size(); i += n) {
    float scale = 0;
    quantise_row(storage, values.subspan(i, n), codes, {&scale, 1});
    dequantise_row(storage, codes, {&scale, 1}, back);
    host.codes.insert(host.codes.end(), codes.begin(), codes.end());
    host.values.insert(host.values.end(), back.begin(), back.end());
    host.scales.push_back(scale);
  }
  return host;
}

/// Normal values of `type`, of which every now and then a group is zeros, tiny, huge, or has a NaN or an infinity.
inline std::vector<float> code_values(int64_t count, int64_t group, DType type, RandomValues& random) {
  std::vector<float> v = random.normal(count, type);
  for (int64_t first = 0; first < count; first += group) {
    const int64_t last = first + group;
    const auto each = [&](auto f) {
      for (int64_t i = first; i < last; ++i) v[i] = rounded(f(v[i]), type);
    };
    switch (random.between(0, 19)) {
      case 0:
        each([](float x) { return std::copysign(0.0f, x); });
        break;
      case 1:
        v[random.between(first, last - 1)] = std::numeric_limits<float>::quiet_NaN();
        break;
      case 2:
        v[random.between(first, last - 1)] = -std::numeric_limits<float>::infinity();
        break;
      case 3:  // fp16 has only subnormals of these
        each([](float x) { return x * 0x1p-20f; });
        break;
      case 4:
        if (type != DType::kF16) each([](float x) { return x * 0x1p-126f; });
        break;
      case 5:
        if (type != DType::kF16) each([](float x) { return x * 0x1p120f; });
        break;
      case 6:  // ties: multiples of a half of the scale of 127
        each([&](float x) { return std::nearbyint(x * 60) * 0.5f; });
        v[random.between(first, last - 1)] = 127.0f;
        break;
      default:
        break;
    }
  }
  return v;
}

/// The same numbers, or both NaN.
inline void expect_scales(std::span<const float> got, std::span<const float> want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(want[i]) && std::isnan(got[i])) continue;
    ASSERT_EQ(got[i], want[i]) << what << ": scale " << i;
  }
}
inline void expect_codes(std::span<const uint8_t> got, std::span<const uint8_t> want,
                         const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(static_cast<int>(got[i]), static_cast<int>(want[i])) << what << ": code " << i;
  }
}

}  // namespace tandem::kernels
