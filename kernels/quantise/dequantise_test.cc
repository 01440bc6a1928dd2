#include <gtest/gtest.h>

#include <bit>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/half.h"
#include "harness/base/precision.h"
#include "kernels/common/codes_test_util.h"
#include "kernels/common/device_test.h"
#include "kernels/quantise/quantise.h"

namespace tandem::kernels {
namespace {

/// Random values as a matrix of this storage, back to bf16, against dequantise_row.
void check_matrix(DType code, int64_t rows, int64_t cols, int64_t shift, RandomValues& random) {
  const std::string what = std::string(dtype_name(code)) + " " + std::to_string(rows) + " x " +
                           std::to_string(cols) + " shift " + std::to_string(shift);
  const bool four = code == DType::kI4;
  const Storage storage{.dtype = code,
                        .scale_group = four ? kInt4Group : Storage::kWholeRow,
                        .scale_dtype = four ? DType::kBF16 : DType::kF32};
  const std::vector<float> values = code_values(rows * cols, cols, DType::kF32, random);
  const int64_t groups = storage.scales_per_row(cols), row_bytes = storage.value_row_bytes(cols);
  std::vector<uint8_t> packed(static_cast<size_t>(shift + rows * row_bytes), 0);
  std::vector<float> scales;
  std::vector<uint16_t> want;
  std::vector<uint32_t> codes(static_cast<size_t>(cols));
  std::vector<float> row_scales(static_cast<size_t>(groups)), back(static_cast<size_t>(cols));
  for (int64_t r = 0; r < rows; ++r) {
    quantise_row(storage, {values.data() + r * cols, static_cast<size_t>(cols)}, codes, row_scales);
    dequantise_row(storage, codes, row_scales, back);
    for (int64_t c = 0; c < cols; ++c) {
      const int64_t at = shift + r * row_bytes + (four ? c / 2 : c);
      packed[at] |= static_cast<uint8_t>(codes[c] << (four ? c % 2 * 4 : 0));
      want.push_back(float_to_bf16(back[c]));
    }
    scales.insert(scales.end(), row_scales.begin(), row_scales.end());
  }
  const DeviceBuffer device_codes = DeviceBuffer::of(packed);
  const DeviceTensor device_scales(scales, storage.scale_dtype);
  const DeviceTensor y(rows * cols, DType::kBF16, shift);
  launch_dequantise({.code_dtype = code,
                     .rows = rows,
                     .cols = cols,
                     .codes = device_codes.data<uint8_t>() + shift,
                     .scales = device_scales.data(),
                     .y = y.data()},
                    nullptr);
  const std::vector<uint8_t> got = y.bytes();
  for (size_t i = 0; i < want.size(); ++i) {
    const auto bits = static_cast<uint16_t>(got[2 * i] | got[2 * i + 1] << 8);
    if (std::isnan(bf16_to_float(want[i])) && std::isnan(bf16_to_float(bits))) continue;
    ASSERT_EQ(bits, want[i]) << what << ": value " << i;
  }
}

// Without it: a matrix multiplied through bf16 scratch is another than the stored one: a wrong nibble, sign, group's scale,
// or a second rounding.
TEST(Dequantise, EqualsTheHostBitForBit) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (const DType code : {DType::kF8, DType::kI8, DType::kI4}) {
    for (const auto& [rows, cols] : {std::pair{64, 512},
                                     {1000, 1024},
                                     {33, 4096},
                                     {5, 48},
                                     {3, 144},
                                     {7, 131},
                                     {1, 1},
                                     {2, 255},
                                     {300, 16}}) {
      check_matrix(code, rows, cols, 0, random);
    }
    for (int i = 0; i < 40; ++i) {
      check_matrix(code, random.between(1, 60),
                   random.coin() ? 16 * random.between(1, 70) : random.between(1, 600),
                   random.coin() ? 0 : random.between(1, 9), random);
    }
  }
}

// Without it: wrong parameters reach the device.
TEST(Dequantise, RefusesWrongParameters) {
  int dummy = 0;
  const DequantiseParams good{.rows = 1, .cols = 8, .codes = &dummy, .scales = &dummy, .y = &dummy};
  const auto refused = [&](auto change) {
    DequantiseParams p = good;
    change(p);
    EXPECT_THROW(launch_dequantise(p, nullptr), UsageError);
  };
  refused([](DequantiseParams& p) { p.code_dtype = DType::kBF16; });
  refused([](DequantiseParams& p) { p.cols = 0; });
  refused([](DequantiseParams& p) { p.rows = -1; });
  refused([](DequantiseParams& p) { p.scales = nullptr; });
}

}  // namespace
}  // namespace tandem::kernels
