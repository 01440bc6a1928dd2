#include "kernels/skinny/formats/row_quantiser.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "harness/base/half.h"
#include "harness/weights/values/quantise.h"

namespace tandem::kernels {
namespace {

// The kernels divide by the inverse and correct once, which is not the division of every pair of floats. It must be that of
// every bf16 by the scale of every largest bf16, or a code would differ from the reference's: all significands of both, from
// the smallest numbers to the largest.
TEST(RowQuantiser, QuotientIsTheDivision) {
  long pairs = 0;
  for (const float largest : {448.0f, 127.0f}) {
    for (const int exponent : {0, 1, 2, 30, 60, 100, 126, 127, 128, 129, 160, 220, 253, 254}) {
      for (int significand = 0; significand < 128; ++significand) {
        const float max = bf16_to_float(static_cast<uint16_t>(exponent << 7 | significand));
        const RowQuantiser q = row_quantiser(max, largest);
        EXPECT_EQ(q.scale, max / largest);
        if (!(q.scale > 0)) {
          EXPECT_EQ(q.keep, 0u);
          continue;
        }
        EXPECT_EQ(q.keep, 0xffffffffu);
        const int top = exponent << 7 | significand;
        for (int bits = top; bits >= 0 && bits > top - 24 * 128; --bits) {
          const float x = bf16_to_float(static_cast<uint16_t>(bits));
          ++pairs;
          ASSERT_EQ(q.quotient(x), x / q.scale) << x << " of " << max << " and " << largest;
          ASSERT_EQ(q.quotient(-x), -x / q.scale);
        }
      }
    }
  }
  EXPECT_GT(pairs, 5'000'000);
}

// What has no scale must come out as quantise_row says: zeros of scale 0, and NaN for what is not finite.
TEST(RowQuantiser, ScalesAreThoseOfTheReference) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float max : {0.0f, 1.0f, 3.25e-38f, 1e-40f, 3e38f, inf, nan}) {
    for (const DType type : {DType::kF8, DType::kI8}) {
      const float rounded = bf16_to_float(float_to_bf16(max));
      const std::vector<float> row = {0.0f, rounded};
      std::vector<uint32_t> codes(2);
      std::vector<float> scale(1);
      quantise_row({.dtype = type, .scale_group = Storage::kWholeRow}, row, codes, scale);
      const RowQuantiser q = row_quantiser(rounded, type == DType::kF8 ? 448.0f : 127.0f);
      EXPECT_TRUE(q.scale == scale[0] || (std::isnan(q.scale) && std::isnan(scale[0]))) << max;
      EXPECT_EQ(q.keep != 0, codes[1] != 0) << max;
      EXPECT_EQ(row_scale(rounded, 448.0f) == 0, row_quantiser(rounded, 448.0f).scale == 0);
    }
  }
  EXPECT_GT(magnitude_bits(-nan), magnitude_bits(inf));
  EXPECT_GT(magnitude_bits(-inf), magnitude_bits(3e38f));
  EXPECT_EQ(magnitude_bits(-2.0f), magnitude_bits(2.0f));
}

}  // namespace
}  // namespace tandem::kernels
