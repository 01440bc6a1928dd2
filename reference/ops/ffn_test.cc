#include "reference/ops/ffn.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "reference/ops/test_views.h"

namespace tandem::reference {
namespace {

// Breaks when two activations are mixed up; gelu and gelu_tanh differ in the fourth digit only.
TEST(Activation, KnownValues) {
  EXPECT_EQ(activate(Activation::kRelu, -2), 0);
  EXPECT_EQ(activate(Activation::kRelu, 2), 2);
  EXPECT_NEAR(activate(Activation::kGelu, 1), 0.84134474606854293,
              1e-15);  // the normal distribution's Phi(1)
  EXPECT_NEAR(activate(Activation::kGelu, -1), -0.15865525393145707, 1e-15);
  EXPECT_NEAR(activate(Activation::kGeluTanh, 1), 0.84119199060827, 1e-13);
  EXPECT_NEAR(activate(Activation::kGeluTanh, -1), -0.15880800939173, 1e-13);
  EXPECT_NEAR(activate(Activation::kSilu, std::log(3.0)), 0.75 * std::log(3.0),
              1e-15);  // sigmoid(ln 3) = 3/4
  EXPECT_NEAR(activate(Activation::kSigmoid, -std::log(3.0)), 0.25, 1e-15);
  EXPECT_NEAR(activate(Activation::kTanh, std::log(3.0)), 0.8, 1e-15);  // (9 - 1) / (9 + 1)
}

// Breaks when an activation swallows a NaN, which would hide an overflow upstream.
TEST(Activation, NanStaysNan) {
  for (const Activation a : {Activation::kRelu, Activation::kGelu, Activation::kGeluTanh, Activation::kSilu,
                             Activation::kTanh, Activation::kSigmoid}) {
    EXPECT_TRUE(std::isnan(activate(a, std::numeric_limits<double>::quiet_NaN()))) << activation_name(a);
  }
}

const std::vector<float> kX = {1, 2};
const std::vector<float> kUp = {1, 1, /**/ 1, -1, /**/ 0, 2};  // up(x) = {3, -1, 4}
const std::vector<float> kUpBias = {0, 0, -1};                 // {3, -1, 3}
const std::vector<float> kDown = {1, 1, 1, /**/ 2, 0, -1};
const std::vector<float> kDownBias = {0.5f, 0};

// Breaks when the activation is after the second product, or a bias is missing.
TEST(FeedForward, Plain) {
  const FfnWeight w{.gate = {},
                    .up = {.weight = view(kUp, 3), .bias = view(kUpBias)},
                    .down = {.weight = view(kDown, 2), .bias = view(kDownBias)},
                    .gate_up = {}};
  const Matrix y = feed_forward(view(kX), w, Activation::kRelu);  // hidden {3, 0, 3}
  EXPECT_EQ(y.values, (std::vector<float>{6.5f, 3}));
}

// Breaks when gate and up are swapped: the activation is on the gate.
TEST(FeedForward, Gated) {
  const std::vector<float> gate = {1, 0, /**/ 0, 1, /**/ -1, 0};  // gate(x) = {1, 2, -1}, relu {1, 2, 0}
  const FfnWeight w{.gate = {.weight = view(gate, 3), .bias = {}},
                    .up = {.weight = view(kUp, 3), .bias = {}},
                    .down = {.weight = view(kDown, 2), .bias = {}},
                    .gate_up = {}};
  const Matrix y = feed_forward(view(kX), w, Activation::kRelu);  // hidden {1*3, 2*-1, 0*4}
  EXPECT_EQ(y.values, (std::vector<float>{1, 6}));
}

}  // namespace
}  // namespace tandem::reference
