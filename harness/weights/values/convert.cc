#include "harness/weights/values/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "harness/base/error.h"
#include "harness/base/half.h"

namespace tandem {
namespace {

struct F32 {
  using Stored = float;
  static float load(float v) { return v; }
  static float store(float v) { return v; }
};
struct F16 {
  using Stored = uint16_t;
  static float load(uint16_t v) { return fp16_to_float(v); }
  static uint16_t store(float v) { return float_to_fp16(v); }
};
struct BF16 {
  using Stored = uint16_t;
  static float load(uint16_t v) { return bf16_to_float(v); }
  static uint16_t store(float v) { return float_to_bf16(v); }
};

template <typename From, typename To>
bool convert(const ConvertParams& p) {
  constexpr int64_t kChunk = 1 << 18;
  bool nan = false;
#pragma omp parallel for schedule(static) reduction(|| : nan)
  for (int64_t first = 0; first < p.count; first += kChunk) {
    const int64_t stop = std::min(p.count, first + kChunk);
    bool any = false;
    for (int64_t i = first; i < stop; ++i) {
      typename From::Stored in;
      std::memcpy(&in, p.from + i * sizeof(in), sizeof(in));
      const float value = From::load(in);
      any |= value != value;
      const typename To::Stored out = To::store(value);
      std::memcpy(p.to + i * sizeof(out), &out, sizeof(out));
    }
    nan = nan || any;
  }
  return nan;
}

template <typename From>
bool convert_to(const ConvertParams& p) {
  switch (p.to_type) {
    case DType::kF32:
      return convert<From, F32>(p);
    case DType::kF16:
      return convert<From, F16>(p);
    case DType::kBF16:
      return convert<From, BF16>(p);
    default:
      throw Error(fmt::format("convert: to {}", dtype_name(p.to_type)));
  }
}

}  // namespace

bool convert_values(const ConvertParams& p) {
  switch (p.from_type) {
    case DType::kF32:
      return convert_to<F32>(p);
    case DType::kF16:
      return convert_to<F16>(p);
    case DType::kBF16:
      return convert_to<BF16>(p);
    default:
      throw Error(fmt::format("convert: from {}", dtype_name(p.from_type)));
  }
}

}  // namespace tandem
