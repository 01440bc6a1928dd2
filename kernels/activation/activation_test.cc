#include "kernels/activation/activation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "kernels/activation/activation_test_util.h"
#include "kernels/common/device_test.h"
#include "kernels/common/timed_graph.h"

namespace tandem::kernels {
namespace {

void check_activation(ActivationParams p, bool with_bias, bool in_place, int64_t shift,
                      RandomValues& random) {
  const int64_t width = p.gated ? 2 * p.f : p.f;
  const auto x = random.normal(p.m * width, p.dtype, 0, 2);
  const auto bias = random.normal(width, p.dtype);
  std::vector<double> want;
  for (int64_t r = 0; r < p.m; ++r) {
    for (int64_t j = 0; j < p.f; ++j) {
      const auto in = [&](int64_t c) {
        return static_cast<double>(x[r * width + c]) + (with_bias ? bias[c] : 0.0);
      };
      want.push_back(truth(p.activation, in(j)) * (p.gated ? in(p.f + j) : 1.0));
    }
  }
  const DeviceTensor device_x(x, p.dtype, shift);
  const DeviceTensor device_bias(bias, p.dtype, shift);
  const DeviceTensor y(p.m * p.f, p.dtype, shift);
  p.x = device_x.data();
  p.bias = with_bias ? device_bias.data() : nullptr;
  p.y = in_place ? device_x.data() : y.data();
  launch_activation(p, nullptr);
  // fp32 on the way loses up to about 1e-6 of the operands: 8 here, 11 the other factor when gated.
  expect_near((in_place ? device_x : y).values(), want, 0.51 * epsilon(p.dtype), p.gated ? 2e-5 : 3e-6,
              std::string(activation_name(p.activation)) + (p.gated ? " gated " : " ") +
                  std::string(dtype_name(p.dtype)) + " " + std::to_string(p.m) + " x " + std::to_string(p.f) +
                  (with_bias ? " bias" : "") + (in_place ? " in place" : "") + " shift " +
                  std::to_string(shift));
}

// Without it: one activation's formula, the gate's side or the bias is wrong in one type.
TEST(Activation, EveryFunctionMatchesDouble) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (Activation a : kActivations) {
    for (DType dtype : kFloatTypes) {
      for (bool gated : {false, true}) {
        for (bool bias : {false, true}) {
          check_activation({.dtype = dtype, .activation = a, .gated = gated, .m = 5, .f = 2048}, bias, false,
                           0, random);
        }
      }
    }
  }
}

// Without it: tails of rows or columns, more rows than one pass of the grid, misaligned pointers or in-place
// use go wrong.
TEST(Activation, ShapesAndAlignments) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  check_activation({.activation = Activation::kSilu, .m = 70001, .f = 8}, true, false, 0, random);
  check_activation({.activation = Activation::kSilu, .m = 70001, .f = 3}, true, false, 0, random);
  check_activation({.activation = Activation::kGelu, .m = 1027, .f = 1032}, true, true, 0, random);
  check_activation({.activation = Activation::kGelu, .gated = true, .m = 1027, .f = 1032}, true, false, 0,
                   random);
  for (int i = 0; i < 150; ++i) {
    ActivationParams p;
    p.dtype = random.one_of(kFloatTypes);
    p.activation = random.one_of(kActivations);
    p.gated = random.coin();
    p.m = random.between(1, 40);
    p.f = random.coin() ? 8 * random.between(1, 400) : random.between(1, 3000);
    check_activation(p, random.coin(), !p.gated && random.coin(), random.coin() ? 0 : random.between(1, 9),
                     random);
  }
}

// Without it: large arguments overflow inside a formula and give NaN, or a NaN is hidden.
TEST(Activation, ExtremeArguments) {
  TANDEM_NEEDS_DEVICE();
  const std::vector<float> x = {0.0f,  -0.0f,  1e-30f, -1e-30f, 5.0f, -5.0f, 30.0f, -30.0f,
                                88.5f, -88.5f, 90.0f,  -90.0f,  1e4f, -1e4f, 1e13f, -1e13f};
  for (Activation a : kActivations) {
    const DeviceTensor device_x(x, DType::kF32);
    const DeviceTensor y(static_cast<int64_t>(x.size()), DType::kF32);
    launch_activation({.dtype = DType::kF32,
                       .activation = a,
                       .m = 1,
                       .f = static_cast<int64_t>(x.size()),
                       .x = device_x.data(),
                       .y = y.data()},
                      nullptr);
    std::vector<double> want;
    for (float v : x) want.push_back(truth(a, v));
    expect_near(y.values(), want, 1e-6, 1e-6, std::string(activation_name(a)));

    const DeviceTensor nan(std::vector<float>(4, std::numeric_limits<float>::quiet_NaN()), DType::kF32);
    const DeviceTensor out(std::vector<float>(4, 1.0f), DType::kF32);
    launch_activation(
        {.dtype = DType::kF32, .activation = a, .m = 1, .f = 4, .x = nan.data(), .y = out.data()}, nullptr);
    for (float v : out.values()) EXPECT_TRUE(std::isnan(v)) << activation_name(a);
  }
}

// Without it: a dependent launch could read before the kernel ahead of it has written.
TEST(Activation, DependentChainEqualsPlainChain) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const auto start = random.normal(37 * 4096, DType::kBF16, 0, 3);
  std::vector<uint8_t> results[2];
  for (bool dependent : {false, true}) {
    cudaStream_t stream = nullptr;
    TANDEM_CUDA_CHECK(cudaStreamCreate(&stream));
    {
      const DeviceTensor x(start, DType::kBF16);
      const DeviceTensor bias(std::vector<float>(4096, 0.5f), DType::kBF16);
      TimedGraph graph(stream, [&](cudaStream_t s) {
        for (int i = 0; i < 20; ++i) {
          launch_activation({.activation = i % 2 == 0 ? Activation::kGelu : Activation::kTanh,
                             .m = 37,
                             .f = 4096,
                             .x = x.data(),
                             .bias = bias.data(),
                             .y = x.data(),
                             .dependent = dependent},
                            s);
        }
      });
      graph.launch();
      TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
      results[dependent ? 1 : 0] = x.bytes();
    }
    TANDEM_CUDA_CHECK(cudaStreamDestroy(stream));
  }
  EXPECT_TRUE(results[0] == results[1]);
}

// Without it: wrong parameters reach the device.
TEST(Activation, RefusesWrongParameters) {
  int dummy[2] = {};
  const ActivationParams good{.m = 1, .f = 1, .x = &dummy[0], .y = &dummy[1]};
  const auto refused = [&](auto change) {
    ActivationParams p = good;
    change(p);
    EXPECT_THROW(launch_activation(p, nullptr), UsageError);
  };
  refused([](ActivationParams& p) { p.dtype = DType::kU8; });
  refused([](ActivationParams& p) { p.f = 0; });
  refused([](ActivationParams& p) { p.y = nullptr; });
  refused([&](ActivationParams& p) {
    p.gated = true;
    p.y = &dummy[0];
  });
}

}  // namespace
}  // namespace tandem::kernels
