#include "harness/weights/values/convert.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "harness/base/half.h"
#include "harness/model/safetensors.h"
#include "harness/model/testing/safetensors_writer.h"

namespace tandem {
namespace {

// Breaks when values change on their way into the arena, when an unaligned tensor is read as if it were aligned, and
// when NaN passes unseen.
TEST(Convert, RoundsOnceAndSeesNan) {
  const std::vector<float> values = {1.0f, -2.5f, 1.00390625f, 65504.0f, 1e-7f, 3.0e38f};
  for (const char* from : {"F32", "F16", "BF16"}) {
    std::string stored = testing::stored_bytes(values, from);
    stored.insert(stored.begin(), 'x');
    const DType type = StoredTensor{.file = "", .dtype = from, .shape = {}, .bytes = {}}.float_type().value();
    std::vector<float> wide(values.size());
    const ConvertParams p{.from = reinterpret_cast<const std::byte*>(stored.data() + 1),
                          .from_type = type,
                          .to = reinterpret_cast<std::byte*>(wide.data()),
                          .to_type = DType::kF32,
                          .count = static_cast<int64_t>(wide.size())};
    EXPECT_FALSE(convert_values(p));
    for (size_t i = 0; i < values.size(); ++i) {
      const float want = type == DType::kF32   ? values[i]
                         : type == DType::kF16 ? fp16_to_float(float_to_fp16(values[i]))
                                               : bf16_to_float(float_to_bf16(values[i]));
      EXPECT_EQ(wide[i], want) << from << " " << i;
    }
    std::vector<uint16_t> narrow(values.size());
    ConvertParams down = p;
    down.to = reinterpret_cast<std::byte*>(narrow.data());
    down.to_type = DType::kBF16;
    EXPECT_FALSE(convert_values(down));
    for (size_t i = 0; i < values.size(); ++i)
      EXPECT_EQ(narrow[i], float_to_bf16(wide[i])) << from << " " << i;
  }
  const float bad[] = {1.0f, std::numeric_limits<float>::quiet_NaN()};
  uint16_t out[2];
  EXPECT_TRUE(convert_values({.from = reinterpret_cast<const std::byte*>(bad),
                              .from_type = DType::kF32,
                              .to = reinterpret_cast<std::byte*>(out),
                              .to_type = DType::kF16,
                              .count = 2}));
}

}  // namespace
}  // namespace tandem
