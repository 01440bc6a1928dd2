#include "kernels/activation/rescale.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "kernels/activation/activation_test_util.h"
#include "kernels/common/device_test.h"

namespace tandem::kernels {
namespace {

struct RescaleCase {
  RescaleParams params;
  bool with_bias = false;
  bool with_residual = false;
  bool in_place = false;  ///< y is residual's buffer
  int64_t y_pad = 0;
  int64_t shift = 0;
};

void check_rescale(const RescaleCase& c, RandomValues& random) {
  RescaleParams p = c.params;
  const int64_t width = p.gated ? 2 * p.f : p.f;
  const int64_t stride = p.f + c.y_pad;
  std::vector<int32_t> x;
  for (int64_t i = 0; i < p.m * width; ++i)
    x.push_back(static_cast<int32_t>(random.between(-4000000, 4000000)));
  const auto x_scales = random.normal(p.m, DType::kF32, 0.001f, 2e-4f);
  const auto w_scales = random.normal(width, DType::kF32, 0.001f, 2e-4f);
  const auto bias = random.normal(width, p.dtype);
  const auto residual = random.normal(p.m * stride, p.residual_dtype);
  std::vector<double> want;
  for (int64_t r = 0; r < p.m; ++r) {
    for (int64_t j = 0; j < p.f; ++j) {
      const auto in = [&](int64_t col) {
        return static_cast<double>(p.scale) * x[r * width + col] * w_scales[col] * x_scales[r] +
               (c.with_bias ? bias[col] : 0.0);
      };
      double v = in(j);
      if (p.activation) v = truth(*p.activation, v);
      if (p.gated) v *= in(p.f + j);
      if (c.with_residual) v += residual[r * stride + j];
      want.push_back(v);
    }
  }
  // DeviceTensor knows float types: the sums go by bytes.
  DeviceBuffer device_x((p.m * width + c.shift) * static_cast<int64_t>(sizeof(int32_t)));
  TANDEM_CUDA_CHECK(cudaMemcpy(device_x.data<int32_t>() + c.shift, x.data(), x.size() * sizeof(int32_t),
                               cudaMemcpyHostToDevice));
  const DeviceTensor device_x_scales(x_scales, DType::kF32);
  const DeviceTensor device_w_scales(w_scales, DType::kF32, c.shift);
  const DeviceTensor device_bias(bias, p.dtype, c.shift);
  const DeviceTensor device_residual(residual, p.residual_dtype, c.shift);
  const DeviceTensor own(p.m * stride, p.y_dtype, c.shift);
  const DeviceTensor& y = c.in_place ? device_residual : own;
  p.x = device_x.data<int32_t>() + c.shift;
  p.x_scales = static_cast<const float*>(device_x_scales.data());
  p.w_scales = static_cast<const float*>(device_w_scales.data());
  p.bias = c.with_bias ? device_bias.data() : nullptr;
  p.residual = c.with_residual ? device_residual.data() : nullptr;
  p.residual_stride = stride;
  p.y = y.data();
  p.y_stride = c.y_pad == 0 ? 0 : stride;
  launch_rescale(p, nullptr);
  const std::string what = std::string(dtype_name(p.dtype)) + " to " + std::string(dtype_name(p.y_dtype)) +
                           " residual " + std::string(dtype_name(p.residual_dtype)) + " " +
                           (p.activation ? std::string(activation_name(*p.activation)) : "none") +
                           (p.gated ? " gated " : " ") + std::to_string(p.m) + " x " + std::to_string(p.f) +
                           " pad " + std::to_string(c.y_pad) + " shift " + std::to_string(c.shift);
  const std::vector<float> all = y.values();
  std::vector<float> got;
  for (int64_t r = 0; r < p.m; ++r) {
    got.insert(got.end(), all.begin() + r * stride, all.begin() + r * stride + p.f);
    for (int64_t i = p.f; i < stride && !c.in_place; ++i) {
      ASSERT_TRUE(std::isnan(all[r * stride + i])) << what << ": wrote padding";
    }
  }
  expect_near(got, want, 0.51 * epsilon(p.y_dtype), p.gated ? 2e-5 : 6e-6, what);
}

// Without it: a scale, the bias, the gate's half, the residual or a tail is taken from the wrong place in one of the types.
TEST(Rescale, MatchesDouble) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (int i = 0; i < 200; ++i) {
    RescaleCase c;
    RescaleParams& p = c.params;
    p.dtype = random.one_of(kFloatTypes);
    p.y_dtype = random.coin() ? p.dtype : DType::kF32;
    p.residual_dtype = random.coin() ? p.dtype : DType::kF32;
    p.gated = random.coin();
    if (p.gated || random.coin()) p.activation = random.one_of(kActivations);
    p.m = random.between(1, 40);
    p.f = random.coin() ? 8 * random.between(1, 200) : random.between(1, 1500);
    p.scale = random.coin() ? 1.0f : 0.125f;
    c.with_bias = random.coin();
    c.with_residual = random.coin();
    c.in_place = c.with_residual && p.residual_dtype == p.y_dtype && random.coin();
    c.y_pad = random.coin() ? 0 : 8 * random.between(0, 3);
    c.shift = random.coin() ? 0 : random.between(1, 9);
    check_rescale(c, random);
  }
}

// Without it: more rows than one pass of the grid, or several rows a thread, go wrong.
TEST(Rescale, ManyRows) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  check_rescale({.params = {.m = 1027, .f = 1032}, .with_bias = true, .with_residual = true}, random);
  check_rescale({.params = {.activation = Activation::kGelu, .gated = true, .m = 1027, .f = 1032}}, random);
  check_rescale({.params = {.activation = Activation::kRelu, .m = 140001, .f = 8}, .with_bias = true},
                random);
}

// Without it: a row whose scale is NaN would hide it.
TEST(Rescale, NanStays) {
  TANDEM_NEEDS_DEVICE();
  const DeviceBuffer x = DeviceBuffer::of(std::vector<int32_t>(16, 0));
  const DeviceTensor x_scales({1.0f, std::numeric_limits<float>::quiet_NaN()}, DType::kF32);
  const DeviceTensor w_scales(std::vector<float>(8, 1.0f), DType::kF32);
  const DeviceTensor y(16, DType::kBF16);
  launch_rescale({.activation = Activation::kRelu,
                  .m = 2,
                  .f = 8,
                  .x = x.data<int32_t>(),
                  .x_scales = static_cast<const float*>(x_scales.data()),
                  .w_scales = static_cast<const float*>(w_scales.data()),
                  .y = y.data()},
                 nullptr);
  const std::vector<float> got = y.values();
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(got[i], 0.0f);
    EXPECT_TRUE(std::isnan(got[8 + i]));
  }
}

// Without it: wrong parameters reach the device.
TEST(Rescale, RefusesWrongParameters) {
  int32_t x = 0;
  float scale = 0;
  int y = 0;
  const RescaleParams good{.m = 1, .f = 8, .x = &x, .x_scales = &scale, .w_scales = &scale, .y = &y};
  const auto refused = [&](auto change) {
    RescaleParams p = good;
    change(p);
    EXPECT_THROW(launch_rescale(p, nullptr), UsageError);
  };
  refused([](RescaleParams& p) { p.dtype = DType::kI8; });
  refused([](RescaleParams& p) { p.y_dtype = DType::kF16; });
  refused([](RescaleParams& p) { p.gated = true; });
  refused([](RescaleParams& p) { p.f = 0; });
  refused([](RescaleParams& p) { p.x_scales = nullptr; });
  refused([](RescaleParams& p) { p.y_stride = 7; });
  refused([&](RescaleParams& p) {
    p.residual = &y;
    p.residual_dtype = DType::kF16;
  });
}

}  // namespace
}  // namespace tandem::kernels
