#include "harness/base/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <set>

#include "harness/base/testing/test_seed.h"

namespace tandem {
namespace {

// Seeded weights would change silently: splitmix64 from state 0 gives these first outputs (the published
// generator).
TEST(Random, IsSplitmix64) {
  EXPECT_EQ(random_bits(0, 0), 0xe220a8397b1dcdafull);
  EXPECT_EQ(random_bits(0, 1), 0x6e789e6aa1b965f4ull);
  EXPECT_EQ(random_bits(0, 2), 0x06c45d188009454full);
}

// Two tensors, or two seeds, would share their numbers.
TEST(Random, StreamsDiffer) {
  std::set<uint64_t> keys;
  for (uint64_t seed = 0; seed < 16; ++seed) {
    for (const char* name : {"a", "b", "ab", "ba", "encoder.layers.0.self.q.weight"})
      keys.insert(stream_key(seed, name));
  }
  EXPECT_EQ(keys.size(), 16u * 5);
}

// The exponents of the seeded weights assume this mean and standard deviation.
TEST(Random, CentredSumMoments) {
  const uint64_t key = stream_key(test_seed(), "moments");
  constexpr int kCount = 1 << 20;
  double sum = 0, squares = 0;
  for (int i = 0; i < kCount; ++i) {
    const int32_t v = centred_sum(key, i);
    ASSERT_LE(std::abs(v), 131070);
    sum += v;
    squares += static_cast<double>(v) * v;
  }
  const double mean = sum / kCount;
  EXPECT_NEAR(mean / kCentredSumStd, 0, 6.0 / std::sqrt(kCount));
  EXPECT_NEAR(std::sqrt(squares / kCount - mean * mean) / kCentredSumStd, 1, 6.0 / std::sqrt(kCount));
}

// Lengths and ids would leave their range.
TEST(Random, UniformBelowAndPowerOfTwo) {
  const uint64_t key = stream_key(test_seed(), "below");
  std::set<uint32_t> seen;
  for (int i = 0; i < 2000; ++i) {
    const uint32_t v = uniform_below(key, i, 7);
    ASSERT_LT(v, 7u);
    seen.insert(v);
  }
  EXPECT_EQ(seen.size(), 7u);
  for (int e = -126; e <= 127; ++e) ASSERT_EQ(power_of_two(e), std::ldexp(1.0f, e));
}

}  // namespace
}  // namespace tandem
