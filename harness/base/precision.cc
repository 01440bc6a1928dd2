#include "harness/base/precision.h"

#include <fmt/format.h>

#include <array>

#include "harness/base/error.h"

namespace tandem {
namespace {

constexpr std::array<std::string_view, kPrecisions> kPrecisionNames = {"fp32", "tf32", "fp16",  "bf16",
                                                                       "fp8",  "int8", "w8a16", "w4a16"};
constexpr std::array<std::string_view, kKvTypes> kKvNames = {"same", "16bit", "fp8", "int8"};

template <size_t N>
int index_of(const std::array<std::string_view, N>& names, std::string_view axis, std::string_view name) {
  for (size_t i = 0; i < N; ++i) {
    if (names[i] == name) return static_cast<int>(i);
  }
  throw UsageError(fmt::format("{}: '{}' is not one of {}", axis, name, fmt::join(names, " ")));
}

}  // namespace

std::string_view precision_name(Precision precision) {
  return kPrecisionNames.at(static_cast<size_t>(precision));
}

Precision parse_precision(std::string_view name) {
  return static_cast<Precision>(index_of(kPrecisionNames, "precision", name));
}

std::string_view kv_name(KvType kv) {
  return kKvNames.at(static_cast<size_t>(kv));
}

KvType parse_kv(std::string_view name) {
  return static_cast<KvType>(index_of(kKvNames, "kv", name));
}

DType activation_dtype(Precision precision) {
  switch (precision) {
    case Precision::kFp32:
    case Precision::kTf32:
      return DType::kF32;
    case Precision::kFp16:
      return DType::kF16;
    default:
      return DType::kBF16;
  }
}

DType weight_dtype(Precision precision) {
  switch (precision) {
    case Precision::kFp8:
      return DType::kF8;
    case Precision::kW4a16:
      return DType::kI4;
    case Precision::kInt8:
    case Precision::kW8a16:
      return DType::kI8;
    default:
      return activation_dtype(precision);
  }
}

DType head_dtype(Precision precision) {
  return precision == Precision::kW4a16 ? DType::kI8 : weight_dtype(precision);
}

DType kv_dtype(Precision precision, KvType kv) {
  if (kv == KvType::kFp8 || (kv == KvType::kSame && precision == Precision::kFp8)) return DType::kF8;
  if (kv == KvType::kInt8 || (kv == KvType::kSame && precision == Precision::kInt8)) return DType::kI8;
  return activation_dtype(precision);
}

int64_t kv_head_bytes(Precision precision, KvType kv, int head_dim) {
  const DType type = kv_dtype(precision, kv);
  const int64_t scale = dtype_bits(type) == 8 ? dtype_bytes(DType::kF32) : 0;
  return tensor_bytes(type, head_dim) + scale;
}

}  // namespace tandem
