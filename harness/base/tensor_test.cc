#include "harness/base/tensor.h"

#include <gtest/gtest.h>

namespace tandem {
namespace {

// Breaks when blocks are allocated, or addresses computed, with another width than the type has.
TEST(Tensor, BytesOfElements) {
  EXPECT_EQ(tensor_bytes(DType::kF32, 3), 12);
  EXPECT_EQ(tensor_bytes(DType::kI32, 3), 12);
  EXPECT_EQ(tensor_bytes(DType::kF16, 3), 6);
  EXPECT_EQ(tensor_bytes(DType::kBF16, int64_t{3} << 31), int64_t{3} << 32);
  EXPECT_EQ(tensor_bytes(DType::kI8, 3), 3);
  EXPECT_EQ(tensor_bytes(DType::kU8, 0), 0);
}

// An arena's views would overlap.
TEST(Tensor, Bytes) {
  const float value = 0;
  const TensorView view{&value, DType::kBF16, 3, 5};
  EXPECT_EQ(view.bytes(), 30);
  EXPECT_FALSE(view.empty());
  EXPECT_TRUE(TensorView{}.empty());
  EXPECT_EQ(dtype_name(DType::kI8), "i8");
}

}  // namespace
}  // namespace tandem
