#include "harness/base/tensor.h"

#include <gtest/gtest.h>

namespace tandem {
namespace {

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
