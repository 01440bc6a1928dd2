// The arithmetic of codes and scales that kernels share with their tests on a CPU: the bits of tandem::quantise_row
// (harness/weights/values/quantise.h).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "harness/base/host_device.h"
#include "harness/base/tensor.h"

namespace tandem::kernels {

/// What the largest magnitude of a group becomes.
TANDEM_HD constexpr float largest_code(DType code) {
  return code == DType::kF8 ? 448.0f : code == DType::kI8 ? 127.0f : 7.0f;
}

/// |v| as bits: integers in the order of magnitudes, infinity and then NaN above all numbers.
TANDEM_HD inline uint32_t magnitude_bits(float v) {
  return std::bit_cast<uint32_t>(v) & 0x7fffffffu;
}

/// The scale of a group by its largest magnitude_bits: NaN where one of it is not finite.
TANDEM_HD inline float scale_of(uint32_t largest, DType code) {
  return largest < 0x7f800000u ? std::bit_cast<float>(largest) / largest_code(code)
                               : std::bit_cast<float>(0x7fc00000u);
}

/// v / scale, rounded as the division is where it is 2^-14 at least (below, every code is 0), for many v of one scale and
/// |v| <= 512 scale: v times the reciprocal, corrected twice by its exact remainder (Markstein, "Computation of elementary
/// functions on the IBM RISC System/6000 processor", 1990). A quotient of 0 may lose v's sign.
class Divider {
 public:
  TANDEM_HD explicit Divider(float scale)
      // Both by a power of two, so that neither the reciprocal nor a remainder that counts leaves the normal numbers.
      : factor_(scale < 0x1p-60f  ? 0x1p80f
                : scale > 0x1p60f ? 0x1p-80f
                                  : 1.0f),
        scale_(scale),
        scaled_(scale * factor_),
        reciprocal_(1.0f / scaled_) {}
  TANDEM_HD float operator()(float v) const {
    const float x = v * factor_;
    float q = x * reciprocal_;
    q = fmaf(fmaf(-q, scaled_, x), reciprocal_, q);
    return fmaf(fmaf(-q, scaled_, x), reciprocal_, q);
  }
  /// Are there codes other than 0? Not for a scale of 0 or NaN.
  TANDEM_HD bool any() const { return scale_ > 0; }
  TANDEM_HD float scale() const { return scale_; }

 private:
  float factor_;
  float scale_;
  float scaled_;
  float reciprocal_;
};

}  // namespace tandem::kernels
