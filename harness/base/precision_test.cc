#include "harness/base/precision.h"

#include <gtest/gtest.h>

#include "harness/base/error.h"

namespace tandem {
namespace {

// An axis value would be read as another one, or a wrong one accepted.
TEST(Precision, NamesRoundTrip) {
  for (int i = 0; i < kPrecisions; ++i) {
    EXPECT_EQ(parse_precision(precision_name(static_cast<Precision>(i))), static_cast<Precision>(i));
  }
  for (int i = 0; i < kKvTypes; ++i)
    EXPECT_EQ(parse_kv(kv_name(static_cast<KvType>(i))), static_cast<KvType>(i));
  EXPECT_THROW(parse_precision("bfloat16"), UsageError);
  EXPECT_THROW(parse_kv("bf16"), UsageError);
}

// A cache would be kept in other bits than the axis says.
TEST(Precision, KvType) {
  EXPECT_EQ(kv_dtype(Precision::kFp8, KvType::kSame), DType::kF8);
  EXPECT_EQ(kv_dtype(Precision::kInt8, KvType::kSame), DType::kI8);
  for (const Precision p : {Precision::kBf16, Precision::kW8a16, Precision::kW4a16})
    EXPECT_EQ(kv_dtype(p, KvType::kSame), DType::kBF16);
  EXPECT_EQ(kv_dtype(Precision::kFp32, KvType::kSame), DType::kF32);
  EXPECT_EQ(kv_dtype(Precision::kFp16, KvType::k16Bit), DType::kF16);
  for (const Precision p : {Precision::kBf16, Precision::kFp8, Precision::kInt8, Precision::kW4a16})
    EXPECT_EQ(kv_dtype(p, KvType::k16Bit), DType::kBF16);
  for (int i = 0; i < kPrecisions; ++i) {
    EXPECT_EQ(kv_dtype(static_cast<Precision>(i), KvType::kFp8), DType::kF8);
    EXPECT_EQ(kv_dtype(static_cast<Precision>(i), KvType::kInt8), DType::kI8);
  }
}

// Floors would be computed from the wrong bytes.
TEST(Precision, Bytes) {
  EXPECT_EQ(activation_dtype(Precision::kInt8), DType::kBF16);
  EXPECT_EQ(kv_head_bytes(Precision::kBf16, KvType::kSame, 64), 128);
  EXPECT_EQ(kv_head_bytes(Precision::kFp8, KvType::kSame, 64), 68);
  EXPECT_EQ(kv_head_bytes(Precision::kBf16, KvType::kInt8, 64), 68);
  EXPECT_EQ(kv_head_bytes(Precision::kFp8, KvType::k16Bit, 64), 128);
  EXPECT_EQ(kv_head_bytes(Precision::kInt8, KvType::kSame, 128), 132);
  EXPECT_EQ(kv_head_bytes(Precision::kFp32, KvType::kFp8, 16), 20);
}

}  // namespace
}  // namespace tandem
