#include "reference/ops/head.h"

#include <gtest/gtest.h>

#include <limits>

#include "reference/ops/test_views.h"

namespace tandem::reference {
namespace {

// Breaks when the scale of a tied head also multiplies the bias.
TEST(Head, ScaleThenBias) {
  const std::vector<float> x = {2, 4}, w = {1, 0, /**/ 0, 1, /**/ 1, 1}, b = {0, 0, 10};
  EXPECT_EQ(head(view(x), {.weight = view(w, 3), .bias = view(b)}, 0.5).values,
            (std::vector<float>{1, 2, 13}));
}

// Breaks when a tie goes to the higher id, or a NaN is passed over in silence.
TEST(Head, ArgMaxTakesTheLowestOfEqualIds) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> logits = {1, 5, 5, 2, /**/ -3, -2, -4, -2, /**/ 1, 2, nan, 3};
  EXPECT_EQ(arg_max(view(logits, 3)), (std::vector<int32_t>{1, 1, 2}));
}

}  // namespace
}  // namespace tandem::reference
