#include "kernels/common/codes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "harness/base/testing/test_seed.h"

namespace tandem::kernels {
namespace {

// Without it: the quick division could round otherwise than the host's, so that a code next to a tie differs.
TEST(Codes, DividesAsTheHostDoes) {
  std::mt19937_64 random(test_seed());
  for (int i = 0; i < 200000; ++i) {
    // Every magnitude of a scale, subnormal too, and values from below its smallest code to its largest.
    const int exponent = static_cast<int>(random() % 265) - 148;
    const float scale = std::ldexp(1 + static_cast<float>(random() % (1 << 23)) * 0x1p-23f, exponent);
    const Divider divide(scale);
    for (int j = 0; j < 16; ++j) {
      const float ratio = std::ldexp(1 + static_cast<float>(random() % (1 << 23)) * 0x1p-23f,
                                     static_cast<int>(random() % 22) - 12);
      const float v = std::min(ratio, 448.0f) * scale * (random() % 2 == 0 ? 1.0f : -1.0f);
      if (std::abs(v / scale) < 0x1p-14f) continue;  // a subnormal that was rounded away
      ASSERT_EQ(std::bit_cast<uint32_t>(divide(v)), std::bit_cast<uint32_t>(v / scale))
          << v << " / " << scale;
    }
  }
}

// Without it: values between two codes, where rounding to even decides, take the other code.
TEST(Codes, DividesTiesExactly) {
  std::mt19937_64 random(test_seed());
  for (int i = 0; i < 20000; ++i) {
    const float scale = std::ldexp(1 + static_cast<float>(random() % (1 << 12)) * 0x1p-12f,
                                   static_cast<int>(random() % 60) - 30);
    for (int twice = 1; twice < 254; ++twice) {
      const float v = static_cast<float>(twice) * 0.5f * scale;  // exact: 12 + 8 bits
      ASSERT_EQ(Divider(scale)(v), static_cast<float>(twice) * 0.5f);
    }
  }
}

// Without it: a row with an infinity or a NaN gets a scale that is a number.
TEST(Codes, ScaleOfWhatIsNotFinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(std::isnan(scale_of(magnitude_bits(-infinity), DType::kF8)));
  EXPECT_TRUE(std::isnan(scale_of(magnitude_bits(std::nanf("")), DType::kI8)));
  EXPECT_EQ(scale_of(magnitude_bits(-448.0f), DType::kF8), 1.0f);
  EXPECT_EQ(scale_of(0, DType::kI8), 0.0f);
  EXPECT_FALSE(Divider(0.0f).any());
  EXPECT_FALSE(Divider(std::nanf("")).any());
  EXPECT_GT(magnitude_bits(std::nanf("")), magnitude_bits(infinity));
}

}  // namespace
}  // namespace tandem::kernels
