#include "harness/base/host_device.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <type_traits>

namespace tandem {
namespace {

// Breaks when a grid misses its last block or gets one too many.
TEST(HostDevice, CeilDivIsTheLeastNumberOfParts) {
  for (int a = 0; a < 300; ++a) {
    for (int b = 1; b < 40; ++b) {
      const int parts = ceil_div(a, b);
      EXPECT_GE(parts * b, a);
      EXPECT_LT((parts - 1) * b, a == 0 ? 0 : a);
      EXPECT_EQ(round_up(a, b), parts * b);
    }
  }
  static_assert(ceil_div(7, 2) == 4 && round_up(7, 4) == 8, "for sizes of arrays too");
}

// Breaks when 64-bit sizes are rounded in 32 bits.
TEST(HostDevice, TheWiderTypeHolds) {
  EXPECT_EQ(ceil_div((int64_t{1} << 40) + 1, 2), (int64_t{1} << 39) + 1);
  EXPECT_EQ(round_up((int64_t{1} << 40) + 1, 256), (int64_t{1} << 40) + 256);
  static_assert(std::is_same_v<decltype(ceil_div(1, int64_t{1})), int64_t>);
  static_assert(std::is_same_v<decltype(ceil_div(1, 1)), int>);
}

}  // namespace
}  // namespace tandem
