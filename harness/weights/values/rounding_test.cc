#include "harness/weights/values/rounding.h"

#include <gtest/gtest.h>

#include <vector>

#include "harness/base/error.h"

namespace tandem {
namespace {

std::vector<float> rounded(Precision precision, std::vector<float> values) {
  round_weights(precision, values);
  return values;
}

// Breaks when a precision rounds to another one's grid, or ties go the wrong way: steps at 1 are 2^-7 (bf16),
// 2^-10.
TEST(Rounding, NearestOfEachGrid) {
  const std::vector<float> v = {1 + 0x1p-8f, 1 + 3 * 0x1p-8f, 1 + 0x1p-11f, 1 + 0x1.8p-11f, -3.5f, 0};
  EXPECT_EQ(rounded(Precision::kFp32, v), v);
  EXPECT_EQ(rounded(Precision::kBf16, v), (std::vector<float>{1, 1 + 0x1p-6f, 1, 1, -3.5f, 0}));
  EXPECT_EQ(rounded(Precision::kFp16, v), (std::vector<float>{v[0], v[1], 1, 1 + 0x1p-10f, -3.5f, 0}));
  EXPECT_EQ(rounded(Precision::kTf32, v),
            (std::vector<float>{v[0], v[1], 1 + 0x1p-10f, 1 + 0x1p-10f, -3.5f, 0}));
}

// Breaks when fp16 is given bf16's range: 2^-25 is half of its least subnormal and goes to even, 65520
// overflows.
TEST(Rounding, RangeOfFp16) {
  EXPECT_EQ(rounded(Precision::kFp16, {0x1p-24f, 0x1p-25f, 65504, 65519}),
            (std::vector<float>{0x1p-24f, 0, 65504, 65504}));
}

// Breaks when a quantised precision is silently left unrounded.
TEST(Rounding, RefusesQuantisedPrecisions) {
  EXPECT_THROW(rounded(Precision::kFp8, {1}), Error);
  EXPECT_THROW(rounded(Precision::kW4a16, {1}), Error);
}

}  // namespace
}  // namespace tandem
