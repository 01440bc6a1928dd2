#include "harness/engine/compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace tandem {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// Breaks when the error is not the ratio of norms, or the worst element is misplaced.
TEST(Compare, RelativeL2AndWorstElement) {
  const std::vector<float> expected = {3, 4, 0, 0};
  const std::vector<float> actual = {3, 4.5f, 0, 0.25f};
  const Comparison c = compare(actual, expected, 2);
  EXPECT_DOUBLE_EQ(c.relative_l2, std::sqrt(0.25 + 0.0625) / 5);
  EXPECT_EQ(c.worst_index, 1);
  EXPECT_FLOAT_EQ(c.worst_expected, 4);
  EXPECT_FLOAT_EQ(c.worst_actual, 4.5f);
  EXPECT_EQ(c.worst_row, 1);  // a row that should be zero and is not
  EXPECT_TRUE(std::isinf(c.worst_row_l2));
  EXPECT_EQ(c.where.find("[0, 1]: expected 4, got 4.5"), 0u) << c.where;
}

// Breaks when equal outputs are refused or equality is reported with a place.
TEST(Compare, EqualIsWithinZero) {
  const std::vector<float> v = {1, -2, 0, 4};
  const Comparison c = compare(v, v, 2);
  EXPECT_TRUE(c.within(0));
  EXPECT_EQ(c.where, "");
  EXPECT_EQ(relative_l2(v, v), 0);
}

// Breaks when a NaN slips through because NaN > tolerance is false.
TEST(Compare, NanIsNeverWithin) {
  const std::vector<float> good = {1, 2, 3, 4};
  for (const float bad : {kNan, kInf, -kInf}) {
    std::vector<float> actual = good;
    actual[2] = bad;
    const Comparison c = compare(actual, good, 2);
    EXPECT_FALSE(c.within(1e9));
    EXPECT_EQ(c.nonfinite_mismatches, 1);
    EXPECT_EQ(c.first_nonfinite, 2);
    EXPECT_TRUE(std::isinf(relative_l2(actual, good)));
    EXPECT_FALSE(compare(actual, actual, 2).within(1e9)) << "a reference with NaN proves nothing";
  }
}

// Breaks when NaNs are matched by their number instead of their position.
TEST(Compare, NanIsMatchedByPosition) {
  const std::vector<float> expected = {kNan, 1, kInf, 2};
  EXPECT_EQ(compare(expected, expected, 4).nonfinite_mismatches, 0);
  EXPECT_EQ(compare(std::vector<float>{1, kNan, kInf, 2}, expected, 4).nonfinite_mismatches, 2);
  EXPECT_EQ(compare(std::vector<float>{kNan, 1, -kInf, 2}, expected, 4).nonfinite_mismatches, 1);
}

// Breaks when one wrong sequence of a large batch drowns in the right ones.
TEST(Compare, OneWrongRowOfManyIsFound) {
  const int64_t rows = 10000, cols = 8;
  const std::vector<float> expected(rows * cols, 1);
  std::vector<float> actual = expected;
  for (int64_t i = 0; i < cols; ++i) actual[1234 * cols + i] = 0.5f;
  const Comparison c = compare(actual, expected, cols);
  EXPECT_LE(c.relative_l2, 0.01);
  EXPECT_EQ(c.worst_row, 1234);
  EXPECT_DOUBLE_EQ(c.worst_row_l2, 0.5);
  EXPECT_FALSE(c.within(0.01));
}

// Breaks when outputs of different sizes compare equal over their common part, or an empty one passes for a
// full one.
TEST(Compare, SizesMustBeEqual) {
  const std::vector<float> two = {1, 2};
  EXPECT_FALSE(compare({}, two, 2).within(1e9));
  EXPECT_TRUE(std::isinf(relative_l2(std::vector<float>{1, 2, 3}, two)));
}

}  // namespace
}  // namespace tandem
