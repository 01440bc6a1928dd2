#include <gtest/gtest.h>

#include <cmath>

#include "harness/base/error.h"
#include "kernels/embedding/embedding.h"

namespace tandem::kernels {
namespace {

// Without it: sines and cosines in the wrong columns, or the other family's frequencies, which no test that
// compares the table with itself would see.
TEST(SinusoidTable, ColumnsOfEachFamily) {
  struct Expected {
    SinusoidShape shape;
    double row_1[4];
  };
  const double s1 = std::sin(1.0);
  const double c1 = std::cos(1.0);
  const Expected all[] = {
      {{.rows = 2, .d = 4}, {s1, c1, std::sin(0.01), std::cos(0.01)}},
      {{.rows = 2, .d = 4, .halves = true}, {s1, std::sin(0.01), c1, std::cos(0.01)}},
      {{.rows = 2, .d = 4, .spans_end = true}, {s1, c1, std::sin(1e-4), std::cos(1e-4)}},
      {{.rows = 2, .d = 4, .halves = true, .spans_end = true}, {s1, std::sin(1e-4), c1, std::cos(1e-4)}},
  };
  for (const Expected& e : all) {
    const auto table = sinusoid_table(e.shape);
    ASSERT_EQ(table.size(), 8u);
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(table[4 + i], static_cast<float>(e.row_1[i])) << i;
      const bool sine = e.shape.halves ? i < 2 : i % 2 == 0;
      EXPECT_EQ(table[i], sine ? 0.0f : 1.0f) << i;
    }
  }
}

// Without it: late positions lose digits, as they do when the angle is kept in fp32.
TEST(SinusoidTable, LatePositionsKeepTheirDigits) {
  const auto table = sinusoid_table({.rows = 5001, .d = 512});
  for (int i : {0, 1, 7, 100, 255}) {
    const double angle = 5000 / std::pow(10000.0, 2.0 * i / 512);
    EXPECT_NEAR(table[5000 * 512 + 2 * i], std::sin(angle), 1e-7) << i;
    EXPECT_NEAR(table[5000 * 512 + 2 * i + 1], std::cos(angle), 1e-7) << i;
  }
}

// Without it: an odd width would write past a row.
TEST(SinusoidTable, RefusesWrongWidths) {
  EXPECT_THROW(sinusoid_table({.rows = 1, .d = 3}), UsageError);
  EXPECT_THROW(sinusoid_table({.rows = 1, .d = 0}), UsageError);
  EXPECT_THROW(sinusoid_table({.rows = 1, .d = 2, .spans_end = true}), UsageError);
  EXPECT_TRUE(sinusoid_table({.rows = 0, .d = 2}).empty());
}

}  // namespace
}  // namespace tandem::kernels
