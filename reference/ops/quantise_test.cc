#include "reference/ops/quantise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "harness/base/error.h"
#include "reference/ops/dense.h"
#include "reference/ops/head.h"
#include "reference/ops/test_views.h"

namespace tandem::reference {
namespace {

// int8: the scale of row 0 is 254 / 127 = 2, so 5 / 2 = 2.5 goes to the even 2 and 7 / 2 to 4. e4m3 has three bits after
// the point: 448 / 448 = 1, so 17 lies between 16 and 18 and goes to the even 16, 19 to 20.
// Breaks when a scale is another row's, or a code is rounded otherwise than those of weights.
TEST(QuantisedRows, ByHand) {
  const std::vector<float> x = {254, 5, 7, -254, /**/ 0, 0, 0, 0, /**/ 127, -1, 0.5f, 1.5f};
  EXPECT_EQ(quantised_rows(view(x, 3), DType::kI8).values,
            (std::vector<float>{254, 4, 8, -254, 0, 0, 0, 0, 127, -1, 0, 2}));
  const std::vector<float> y = {448, 17, 19, -448, /**/ 0, 0, 0, 0};
  EXPECT_EQ(quantised_rows(view(y, 2), DType::kF8).values,
            (std::vector<float>{448, 16, 20, -448, 0, 0, 0, 0}));
}

// Breaks when a head takes the scale of its row.
TEST(QuantisedHeads, EachHeadHasItsScale) {
  const std::vector<float> x = {254, 5, /**/ 127, 5};
  EXPECT_EQ(quantised_heads(view(x), DType::kI8, 2).values, (std::vector<float>{254, 4, 127, 5}));
  EXPECT_EQ(quantised_heads(view(x), DType::kI8, 4).values, quantised_rows(view(x), DType::kI8).values);
  EXPECT_THROW(quantised_heads(view(x), DType::kI8, 3), Error);
  EXPECT_THROW(quantised_heads(view(x), DType::kI4, 2), Error);
  EXPECT_THROW(quantised_rows(view(x), DType::kBF16), Error);
}

// Breaks when a NaN or an infinity in a row becomes a number.
TEST(QuantisedRows, NanStays) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {1, NAN, /**/ 2, inf, /**/ 3, 3};
  for (const DType type : {DType::kF8, DType::kI8}) {
    const Matrix y = quantised_rows(view(x, 3), type);
    for (int i = 0; i < 4; ++i) EXPECT_TRUE(std::isnan(y.values[i])) << i;
    EXPECT_EQ(y.values[4], 3);
  }
}

// Breaks when a product multiplies rows that its weight says are quantised as they are, or quantises any others.
TEST(QuantisedRows, ProductsQuantiseWhereTheWeightSaysSo) {
  const std::vector<float> x = {254, 5, 7, -254, /**/ 127, -1, 0.5f, 1.5f};
  const std::vector<float> w = {1, 1, 1, 1, /**/ 0, 3, 0, 0}, b = {0.25f, 0};
  DenseWeight weight{.weight = view(w, 2), .bias = view(b)};
  EXPECT_EQ(dense(view(x, 2), weight).values, (std::vector<float>{12.25f, 15, 128.25f, -3}));
  weight.input_dtype = DType::kI8;
  EXPECT_EQ(dense(view(x, 2), weight).values, (std::vector<float>{12.25f, 12, 128.25f, -3}));
  const std::vector<float> ones = {254, 0, 5, 0};
  EXPECT_EQ(head(view(ones), weight, 1).values, (std::vector<float>{258.25f, 0}));
}

// bf16 keeps 8 bits: 257 goes to the even 256, 259 to 260.
// Breaks when the rounding that stands for an engine's activations is left out, or comes after quantising.
TEST(Numerics, InputsAreRoundedToBf16First) {
  const std::vector<float> x = {257, 259};
  EXPECT_EQ(bf16_values(view(x)).values, (std::vector<float>{256, 260}));
  const std::vector<float> w = {1, 0};
  DenseWeight weight{.weight = view(w), .bias = {}};
  EXPECT_EQ(dense(view(x), weight).values[0], 257);
  EXPECT_EQ(dense(view(x), weight, {.bf16_inputs = true}).values[0], 256);
  weight.input_dtype = DType::kI8;
  const Matrix rounded = bf16_values(view(x));
  EXPECT_EQ(dense(view(x), weight, {.bf16_inputs = true}).values[0],
            quantised_rows(rounded, DType::kI8).values[0]);
}

// Breaks when keys and values are kept otherwise than the cache's type says.
TEST(Numerics, KeysAndValuesAsTheyAreKept) {
  const std::vector<float> x = {257, 3, /**/ 127, 5};
  const MatrixView v = view(x);
  Matrix m(1, 4);
  m.values = x;
  EXPECT_EQ(kept(m, {}, 2).values, x);
  EXPECT_EQ(kept(m, {.bf16_inputs = true}, 2).values, (std::vector<float>{256, 3, 127, 5}));
  for (const DType type : {DType::kF8, DType::kI8}) {
    EXPECT_EQ(kept(m, {.kv = type}, 2).values, quantised_heads(v, type, 2).values);
    EXPECT_EQ(kept(m, {.kv = type, .bf16_inputs = true}, 2).values,
              quantised_heads(bf16_values(v), type, 2).values);
  }
}

}  // namespace
}  // namespace tandem::reference
