#include "harness/weights/values/quantise.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "harness/base/error.h"
#include "harness/base/half.h"

namespace tandem {
namespace {

/// The codes of a type.
struct Codes {
  DType type;
  float largest;  ///< what a group's largest magnitude becomes

  static Codes of(const Storage& storage) {
    switch (storage.dtype) {
      case DType::kF8:
        return {storage.dtype, 448};
      case DType::kI8:
        return {storage.dtype, 127};
      case DType::kI4:
        return {storage.dtype, 7};
      default:
        throw Error(fmt::format("quantise: to f8, i8 or i4, not {}", dtype_name(storage.dtype)));
    }
  }
  uint32_t encode(float v) const {
    if (type == DType::kF8) return float_to_f8(v);
    const int low = type == DType::kI8 ? -127 : -8;
    const int code = std::clamp(static_cast<int>(std::nearbyint(v)), low, static_cast<int>(largest));
    return static_cast<uint32_t>(code) & ((1u << dtype_bits(type)) - 1);
  }
  float decode(uint32_t code) const {
    if (type == DType::kF8) return f8_to_float(static_cast<uint8_t>(code));
    const auto bits = static_cast<unsigned>(dtype_bits(type));
    const auto sign = static_cast<int32_t>(code << (32 - bits));
    return static_cast<float>(sign >> (32 - bits));
  }
};

float largest_magnitude(std::span<const float> values) {
  float largest = 0;
  for (const float v : values) {
    if (!std::isfinite(v)) return std::numeric_limits<float>::quiet_NaN();
    largest = std::max(largest, std::abs(v));
  }
  return largest;
}

float stored_scale(DType type, float scale) {
  return type == DType::kBF16 ? bf16_to_float(float_to_bf16(scale)) : scale;
}

/// Calls body(first, count, group) for each group of a row.
template <typename Body>
void each_group(const Storage& storage, size_t cols, size_t scales, Body&& body) {
  if (storage.scale_group == 0 ||
      static_cast<size_t>(storage.scales_per_row(static_cast<int64_t>(cols))) != scales)
    throw Error(fmt::format("quantise: {} scales for a row of {}", scales, cols));
  const size_t group =
      storage.scale_group == Storage::kWholeRow ? cols : static_cast<size_t>(storage.scale_group);
  for (size_t g = 0; g < scales; ++g) body(g * group, std::min(group, cols - g * group), g);
}

}  // namespace

void quantise_row(const Storage& storage, std::span<const float> values, std::span<uint32_t> codes,
                  std::span<float> scales) {
  const Codes type = Codes::of(storage);
  if (codes.size() != values.size())
    throw Error(fmt::format("quantise: {} codes for {} values", codes.size(), values.size()));
  each_group(storage, values.size(), scales.size(), [&](size_t first, size_t count, size_t g) {
    const float scale =
        stored_scale(storage.scale_dtype, largest_magnitude(values.subspan(first, count)) / type.largest);
    scales[g] = scale;
    for (size_t i = first; i < first + count; ++i) codes[i] = scale > 0 ? type.encode(values[i] / scale) : 0;
  });
}

void dequantise_row(const Storage& storage, std::span<const uint32_t> codes, std::span<const float> scales,
                    std::span<float> values) {
  const Codes type = Codes::of(storage);
  if (codes.size() != values.size())
    throw Error(fmt::format("quantise: {} codes for {} values", codes.size(), values.size()));
  each_group(storage, values.size(), scales.size(), [&](size_t first, size_t count, size_t g) {
    for (size_t i = first; i < first + count; ++i) values[i] = type.decode(codes[i]) * scales[g];
  });
}

}  // namespace tandem
