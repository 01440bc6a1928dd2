#include "harness/base/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>

namespace tandem {
namespace {

// Weights rounded on the host would differ from the card's own conversion.
template <uint16_t (*to_half)(float), float (*to_float)(uint16_t)>
void check_half(uint16_t infinity) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto h = static_cast<uint16_t>(bits);
    const float f = to_float(h);
    if ((h & 0x7fff) > infinity) {
      ASSERT_TRUE(std::isnan(f)) << h;
      ASSERT_GT(to_half(f) & 0x7fff, infinity) << h;
      continue;
    }
    ASSERT_EQ(to_half(f), h);
    if ((h & 0x7fff) >= infinity) continue;
    // Half-way to the next value away from zero; it is exact in fp32. Past the largest, the tie goes to
    // infinity.
    const auto next = static_cast<uint16_t>(h + 1);
    const float away = std::copysign(std::numeric_limits<float>::infinity(), f);
    float middle = 0;
    if ((next & 0x7fff) == infinity) {
      const float step = f - to_float(static_cast<uint16_t>(h - 1));
      middle = f + step / 2;
    } else {
      middle = static_cast<float>((static_cast<double>(f) + to_float(next)) / 2);
    }
    const uint16_t even = (h & 1) == 0 ? h : next;
    ASSERT_EQ(to_half(middle), even) << h;
    ASSERT_EQ(to_half(std::nextafter(middle, away)), next) << h;
    ASSERT_EQ(to_half(std::nextafter(middle, 0.0f)), h) << h;
  }
}

TEST(Half, Fp16RoundsToNearestEvenEverywhere) {
  check_half<float_to_fp16, fp16_to_float>(0x7c00);
}
TEST(Half, Bf16RoundsToNearestEvenEverywhere) {
  check_half<float_to_bf16, bf16_to_float>(0x7f80);
}

// A tf32 reference would round its inputs unlike the tensor cores do.
TEST(Half, Tf32TiesAwayFromZero) {
  EXPECT_EQ(round_to_tf32(1.0f), 1.0f);
  EXPECT_EQ(round_to_tf32(1.0f + 0x1p-11f), 1.0f + 0x1p-10f);
  EXPECT_EQ(round_to_tf32(-1.0f - 0x1p-11f), -1.0f - 0x1p-10f);
  EXPECT_EQ(round_to_tf32(1.0f + 0x1p-12f), 1.0f);
  EXPECT_TRUE(std::isinf(round_to_tf32(std::numeric_limits<float>::infinity())));
  EXPECT_TRUE(std::isnan(round_to_tf32(std::numeric_limits<float>::quiet_NaN())));
}

// Quantised weights would have other codes than the card's own conversion: every code, and both sides of every middle.
TEST(Half, F8RoundsToNearestEvenAndSaturates) {
  for (uint32_t bits = 0; bits < 256; ++bits) {
    const auto h = static_cast<uint8_t>(bits);
    const float f = f8_to_float(h);
    if ((h & 0x7f) == 0x7f) {
      ASSERT_TRUE(std::isnan(f));
      ASSERT_EQ(float_to_f8(f) & 0x7f, 0x7f);
      continue;
    }
    ASSERT_EQ(float_to_f8(f), h);
    if ((h & 0x7f) == 0x7e) continue;
    const auto next = static_cast<uint8_t>(h + 1);
    const float middle = (f + f8_to_float(next)) / 2;
    const float away = std::copysign(std::numeric_limits<float>::infinity(), f);
    ASSERT_EQ(float_to_f8(middle), (h & 1) == 0 ? h : next) << bits;
    ASSERT_EQ(float_to_f8(std::nextafter(middle, away)), next) << bits;
    ASSERT_EQ(float_to_f8(std::nextafter(middle, 0.0f)), h) << bits;
  }
  EXPECT_EQ(f8_to_float(0x7e), 448);
  EXPECT_EQ(f8_to_float(0x08), 0x1p-6f);
  EXPECT_EQ(f8_to_float(0x01), 0x1p-9f);
  EXPECT_EQ(float_to_f8(1e9f), 0x7e);
  EXPECT_EQ(float_to_f8(-std::numeric_limits<float>::infinity()), 0xfe);
}

}  // namespace
}  // namespace tandem
