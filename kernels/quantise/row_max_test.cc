#include "kernels/quantise/row_max.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "harness/base/error.h"
#include "kernels/common/device_test.h"

namespace tandem::kernels {
namespace {

// Without it: a maximum that misses columns past a block's width, takes the sign, or loses a NaN, and codes of the wrong scale.
TEST(RowMax, IsTheLargestMagnitudeOfEachRow) {
  TANDEM_NEEDS_DEVICE();
  std::mt19937 random(static_cast<unsigned>(test_seed()));
  std::normal_distribution<float> normal;
  for (const DType dtype : kFloatTypes) {
    for (const int64_t cols : {1, 7, 128, 129, 1000}) {
      constexpr int64_t kRows = 9, kPad = 3;
      const int64_t stride = cols + kPad;
      // What lies between rows is larger than any value.
      std::vector<float> x(static_cast<size_t>(kRows * stride), 60000.0f);
      std::vector<float> want(kRows, 0.0f);
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t c = 0; c < cols; ++c) {
          const float v = r == 4 ? 0.0f : rounded(normal(random), dtype);
          x[static_cast<size_t>(r * stride + c)] = v;
          want[static_cast<size_t>(r)] = std::max(want[static_cast<size_t>(r)], std::abs(v));
        }
      }
      x[static_cast<size_t>(6 * stride + cols - 1)] = want[6] = std::numeric_limits<float>::quiet_NaN();
      const DeviceTensor device_x(x, dtype);
      const DeviceTensor max(kRows, DType::kF32);
      launch_row_max({.dtype = dtype,
                      .rows = kRows,
                      .cols = cols,
                      .x = device_x.data(),
                      .x_stride = stride,
                      .max = static_cast<float*>(max.data())},
                     nullptr);
      const std::vector<float> got = max.values();
      for (size_t r = 0; r < want.size(); ++r) {
        EXPECT_TRUE(got[r] == want[r] || (std::isnan(got[r]) && std::isnan(want[r])))
            << dtype_name(dtype) << " " << cols << " columns, row " << r << ": " << got[r] << ", not "
            << want[r];
      }
    }
  }
}

// Without it: a wrong size reads past a row in silence.
TEST(RowMax, NamesTheWrongField) {
  float x = 0, max = 0;
  const RowMaxParams good{.dtype = DType::kF32, .rows = 1, .cols = 4, .x = &x, .max = &max};
  RowMaxParams p = good;
  p.cols = 0;
  EXPECT_THROW(launch_row_max(p, nullptr), UsageError);
  p = good;
  p.x_stride = 3;
  EXPECT_THROW(launch_row_max(p, nullptr), UsageError);
  p = good;
  p.dtype = DType::kI8;
  EXPECT_THROW(launch_row_max(p, nullptr), UsageError);
}

}  // namespace
}  // namespace tandem::kernels
