// Seeded weights: a pure function of (seed, tensor name, index).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "harness/base/host_device.h"
#include "harness/base/random.h"
#include "harness/weights/layout.h"
#include "harness/weights/values/source.h"

namespace tandem {

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

/// Fills values [first, first + out.size()) of `tensor` in fp32. Throws UsageError for weights that are not seeded.
void fill_seeded(const WeightsSpec& spec, const WholeTensor& tensor, int64_t first, std::span<float> out);

class SeededSource : public WeightSource {
 public:
  explicit SeededSource(const WeightsSpec& spec) : spec_(spec) {}
  void read(const WholeTensor& tensor, const Rectangle& at, std::span<float> out) const override;
  std::string key() const override { return weights_text(spec_); }
  const WeightsSpec* seeded() const override { return &spec_; }

 private:
  WeightsSpec spec_;
};

}  // namespace tandem
