#include "reference/ops/dense.h"

#include <gtest/gtest.h>

#include "harness/base/error.h"
#include "reference/ops/test_views.h"

namespace tandem::reference {
namespace {

// Breaks when the weight is read transposed, or the bias is left out or added per token.
TEST(Dense, WeightIsOutByIn) {
  const std::vector<float> x = {1, 2, 3, /**/ 0, -1, 1};
  const std::vector<float> w = {1, 0, 2, /**/ -1, 4, 0.5f};
  const std::vector<float> b = {10, 100};
  const Matrix y = dense(view(x, 2), {.weight = view(w, 2), .bias = view(b)});
  ASSERT_EQ(y.rows, 2);
  ASSERT_EQ(y.cols, 2);
  EXPECT_EQ(y.values, (std::vector<float>{1 + 6 + 10, -1 + 8 + 1.5f + 100, 2 + 10, -4 + 0.5f + 100}));
  EXPECT_EQ(dense(view(x, 2), {.weight = view(w, 2), .bias = {}}).values,
            (std::vector<float>{7, 8.5f, 2, -3.5f}));
}

// Breaks when sums are kept in fp32: 2^24 + 1 + 1 would stay 2^24.
TEST(Dense, SumsInDouble) {
  const std::vector<float> x = {0x1p24f, 1, 1, -0x1p24f};
  const std::vector<float> w = {1, 1, 1, 1};
  EXPECT_EQ(dense(view(x), {.weight = view(w), .bias = {}}).values[0], 2);
}

// Breaks when a weight of another width is read beyond its end.
TEST(Dense, RefusesWrongShapes) {
  const std::vector<float> x = {1, 2, 3};
  const std::vector<float> w = {1, 2};
  EXPECT_THROW(dense(view(x), {.weight = view(w), .bias = {}}), Error);
  EXPECT_THROW(dense(view(w), {.weight = view(w), .bias = view(x)}), Error);
  TensorView half = view(w);
  half.dtype = DType::kF16;
  EXPECT_THROW(dense(view(w), {.weight = half, .bias = {}}), Error);
}

}  // namespace
}  // namespace tandem::reference
