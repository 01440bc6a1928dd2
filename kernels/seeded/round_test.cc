#include "kernels/seeded/round.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "harness/base/half.h"
#include "harness/base/testing/test_seed.h"
#include "kernels/common/device_buffer.h"
#include "kernels/common/device_test.h"

namespace tandem::kernels {
namespace {

// Weights rounded otherwise than on the host would make every check of a precision wrong.
TEST(Round, MatchesTheHost) {
  TANDEM_NEEDS_DEVICE();
  std::mt19937 rng(static_cast<unsigned>(test_seed()));
  std::vector<float> values(100000);
  for (float& v : values) v = std::bit_cast<float>(static_cast<uint32_t>(rng()));
  for (const auto& [precision, host] :
       {std::pair{Precision::kTf32, +[](float v) { return round_to_tf32(v); }},
        std::pair{Precision::kFp16, +[](float v) { return fp16_to_float(float_to_fp16(v)); }},
        std::pair{Precision::kBf16, +[](float v) { return bf16_to_float(float_to_bf16(v)); }}}) {
    const auto device = DeviceBuffer::of(values);
    launch_round(device.data<float>(), static_cast<int64_t>(values.size()), precision, nullptr);
    const std::vector<float> got = device.to_host<float>();
    for (size_t i = 0; i < values.size(); ++i) {
      if (std::isnan(values[i])) {
        EXPECT_TRUE(std::isnan(got[i]));
      } else {
        ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(host(values[i])))
            << precision_name(precision) << " of " << values[i];
      }
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
