#include "reference/ops/norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "reference/ops/test_views.h"

namespace tandem::reference {
namespace {

// Breaks when the variance divides by d - 1, eps is outside the root, or gamma and beta are swapped.
TEST(LayerNorm, HandWorked) {
  const std::vector<float> x = {1, 2, 3, 4};  // mean 2.5, variance 1.25
  const std::vector<float> gamma = {1, 2, 1, 1};
  const std::vector<float> beta = {0, 10, 0, -1};
  const NormWeight w{.gamma = view(gamma), .beta = view(beta)};
  const Matrix y = layer_norm(view(x), w, 0.3125);  // variance + eps = 1.5625 = 1.25^2
  EXPECT_FLOAT_EQ(y.values[0], -1.2f);
  EXPECT_FLOAT_EQ(y.values[1], -0.8f + 10);
  EXPECT_FLOAT_EQ(y.values[2], 0.4f);
  EXPECT_FLOAT_EQ(y.values[3], 1.2f - 1);
}

// Breaks when the variance is taken as E[x^2] - E[x]^2 in fp32: it would be 0 or negative here.
TEST(LayerNorm, LargeMeanSmallSpread) {
  const std::vector<float> x = {8192, 8192.0078125f};  // 2^13 and 2^13 + 2^-7: variance 2^-16
  const std::vector<float> gamma = {1, 1}, beta = {0, 0};
  const Matrix y = layer_norm(view(x), {.gamma = view(gamma), .beta = view(beta)}, 0);
  EXPECT_FLOAT_EQ(y.values[0], -1);
  EXPECT_FLOAT_EQ(y.values[1], 1);
}

// Breaks when the mean is taken off, or the sum of squares is not divided by d.
TEST(RmsNorm, HandWorked) {
  const std::vector<float> x = {1, 7, /**/ 0, 0};  // mean of squares 25, 0
  const std::vector<float> gamma = {1, 3};
  const Matrix y = rms_norm(view(x, 2), {.gamma = view(gamma), .beta = {}}, 11);  // 25 + 11 = 6^2
  EXPECT_FLOAT_EQ(y.values[0], 1 / 6.f);
  EXPECT_FLOAT_EQ(y.values[1], 21 / 6.f);
  EXPECT_EQ(y.values[2], 0);
}

}  // namespace
}  // namespace tandem::reference
