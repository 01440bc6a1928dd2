// Seeded weights: a pure function of (seed, tensor name, index).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "harness/base/host_device.h"
#include "harness/base/random.h"
#include "harness/weights/weights.h"

namespace tandem {

/// `weights` axis: "seed:N", "seed:N,outliers" or "checkpoint".
struct WeightsSpec {
  bool checkpoint = false;
  uint64_t seed = 0;
  bool outliers = false;
  bool operator==(const WeightsSpec&) const = default;
};
/// Throws UsageError naming the allowed forms.
WeightsSpec parse_weights(std::string_view text);
std::string weights_text(const WeightsSpec& spec);

/// Quantiles of a log-normal distribution (sigma 0.5, unit root mean square), times 256. Index by
/// outlier_slot().
inline constexpr int kOutlierSlots = 64;
extern const int32_t kOutlierScale[kOutlierSlots];
inline constexpr int kOutlierShift = 8;

TANDEM_HD constexpr int outlier_slot(uint64_t key, uint64_t row) {
  return static_cast<int>(random_bits(~key, row) >> 58);
}

/// The value at `index` of a tensor; `scale` is 1, or kOutlierScale[outlier_slot(key, row)] with exponent
/// lowered by kOutlierShift. The product is exact in 32 bits, its conversion to float rounds once, the
/// multiplication is exact.
TANDEM_HD constexpr float seeded_value(uint64_t key, uint64_t index, float base, int exponent,
                                       int32_t scale) {
  return base + static_cast<float>(centred_sum(key, index) * scale) * power_of_two(exponent);
}

/// Fills values [first, first + out.size()) of `tensor` in fp32.
void fill_seeded(const WeightsSpec& spec, const TensorSpec& tensor, int64_t first, std::span<float> out);

}  // namespace tandem
