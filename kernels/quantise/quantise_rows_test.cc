#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "harness/base/error.h"
#include "kernels/common/codes_test_util.h"
#include "kernels/common/device_test.h"
#include "kernels/quantise/quantise.h"

namespace tandem::kernels {
namespace {

struct Layout {
  int64_t x_pad = 0, code_pad = 0;
  bool group_major = false;  ///< scales [groups, rows]
  int64_t shift = 0;
};

void check_rows(QuantiseRowsParams p, const Layout& layout, RandomValues& random) {
  const std::string what = std::string(dtype_name(p.dtype)) + " to " + std::string(dtype_name(p.code_dtype)) +
                           " " + std::to_string(p.rows) + " x " + std::to_string(p.cols) + " group " +
                           std::to_string(p.group) + " shift " + std::to_string(layout.shift) + " pads " +
                           std::to_string(layout.x_pad) + ", " + std::to_string(layout.code_pad);
  const int64_t groups = p.cols / p.group;
  const std::vector<float> dense = code_values(p.rows * p.cols, p.group, p.dtype, random);
  const HostCodes want = host_codes(dense, p.group, p.code_dtype);
  p.x_stride = layout.x_pad == 0 && random.coin() ? 0 : p.cols + layout.x_pad;
  p.code_stride = layout.code_pad == 0 && random.coin() ? 0 : p.cols + layout.code_pad;
  const int64_t ldx = p.cols + layout.x_pad, ldc = p.cols + layout.code_pad;
  // What lies between rows is larger than any value: a scale that sees it is wrong.
  std::vector<float> x(static_cast<size_t>(p.rows * ldx), 60000.0f);
  for (int64_t r = 0; r < p.rows; ++r) std::copy_n(dense.begin() + r * p.cols, p.cols, x.begin() + r * ldx);
  const DeviceTensor device_x(x, p.dtype, layout.shift);
  const DeviceTensor codes(p.rows * ldc, p.code_dtype, layout.shift);
  const DeviceTensor scales(p.rows * groups, DType::kF32);
  p.x = device_x.data();
  p.codes = codes.data();
  p.scales = static_cast<float*>(scales.data());
  if (layout.group_major) {
    p.scale_stride = 1;
    p.scale_group_stride = p.rows;
  }
  launch_quantise_rows(p, nullptr);

  std::vector<uint8_t> want_codes(static_cast<size_t>(p.rows * ldc), 0xff);
  for (int64_t r = 0; r < p.rows; ++r) {
    std::copy_n(want.codes.begin() + r * p.cols, p.cols, want_codes.begin() + r * ldc);
  }
  std::vector<float> want_scales(want.scales.size());
  for (int64_t r = 0; r < p.rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      want_scales[layout.group_major ? g * p.rows + r : r * groups + g] = want.scales[r * groups + g];
    }
  }
  expect_scales(scales.values(), want_scales, what);
  expect_codes(codes.bytes(), want_codes, what);
}

// Without it: codes differ from the host's in one of the kernel's forms (lanes that share a warp, a warp, a block, any
// alignment), at the widths of models and at odd ones.
TEST(QuantiseRows, EveryFormEqualsTheHost) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  struct Shape {
    int64_t rows, cols, group;
  };
  const Shape shapes[] = {{1, 512, 512},    {300, 512, 512},   {70, 1024, 1024},  {3, 1032, 1032},
                          {65, 4096, 4096}, {9, 16384, 16384}, {2, 40000, 40000}, {5, 7, 7},
                          {200, 2048, 64},  {33, 1280, 128},   {77, 96, 32},      {40, 48, 16},
                          {11, 24, 8},      {13, 80, 40},      {4, 21, 7},        {2, 250, 250},
                          {1, 1, 1},        {129, 768, 768}};
  for (const Shape& s : shapes) {
    for (const DType dtype : kFloatTypes) {
      for (const DType code : kCodeTypes) {
        check_rows({.dtype = dtype, .code_dtype = code, .rows = s.rows, .cols = s.cols, .group = s.group}, {},
                   random);
      }
    }
  }
}

// Without it: strides, a transposed place of scales or misaligned pointers write the wrong place.
TEST(QuantiseRows, StridesAndAlignments) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (int i = 0; i < 200; ++i) {
    const int64_t group = random.coin() ? 8 * random.between(1, 40) : random.between(1, 700);
    QuantiseRowsParams p{.dtype = random.one_of(kFloatTypes),
                         .code_dtype = random.one_of(kCodeTypes),
                         .rows = random.between(1, 90),
                         .cols = group * random.between(1, 6),
                         .group = group};
    check_rows(p,
               {.x_pad = random.coin() ? 0 : 8 * random.between(0, 5) + random.between(0, 1),
                .code_pad = random.coin() ? 0 : 8 * random.between(0, 5) + random.between(0, 1),
                .group_major = random.coin(),
                .shift = random.coin() ? 0 : random.between(1, 9)},
               random);
  }
}

// Without it: wrong parameters reach the device.
TEST(QuantiseRows, RefusesWrongParameters) {
  int dummy = 0;
  float scale = 0;
  const QuantiseRowsParams good{
      .rows = 1, .cols = 8, .group = 8, .x = &dummy, .codes = &dummy, .scales = &scale};
  const auto refused = [&](auto change) {
    QuantiseRowsParams p = good;
    change(p);
    EXPECT_THROW(launch_quantise_rows(p, nullptr), UsageError);
  };
  refused([](QuantiseRowsParams& p) { p.dtype = DType::kI8; });
  refused([](QuantiseRowsParams& p) { p.code_dtype = DType::kI4; });
  refused([](QuantiseRowsParams& p) { p.group = 3; });
  refused([](QuantiseRowsParams& p) { p.group = 0; });
  refused([](QuantiseRowsParams& p) { p.rows = -1; });
  refused([](QuantiseRowsParams& p) { p.x_stride = 7; });
  refused([](QuantiseRowsParams& p) { p.code_stride = 7; });
  refused([](QuantiseRowsParams& p) { p.scales = nullptr; });
}

}  // namespace
}  // namespace tandem::kernels
