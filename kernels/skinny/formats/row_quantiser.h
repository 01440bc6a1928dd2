// The scale of a row of x that is quantised on its way into shared memory, and the division by it. For host and device: the
// tests walk every pair of numbers.
#pragma once

#include <cmath>
#include <cstdint>

#include "harness/base/host_device.h"

namespace tandem::kernels {

TANDEM_HD inline uint32_t bits_of_float(float v) {
  uint32_t bits = 0;
  __builtin_memcpy(&bits, &v, sizeof bits);
  return bits;
}
TANDEM_HD inline float float_of_bits(uint32_t bits) {
  float v = 0;
  __builtin_memcpy(&v, &bits, sizeof v);
  return v;
}

/// Bits of |v|: in the order of magnitudes, those of a NaN above all.
TANDEM_HD inline uint32_t magnitude_bits(float v) {
  return bits_of_float(v) & 0x7fffffffu;
}

/// As quantise_row() (harness/weights/values/quantise.h) has it for a group that is the whole row.
struct RowQuantiser {
  float scale;    ///< of the row: 0 when it is all zeros, NaN when it has a NaN or an infinity
  float up;       ///< a power of two: in the range of scale * up no step of the division underflows
  float divisor;  ///< scale * up
  float inverse;  ///< 1 / divisor, rounded
  uint32_t keep;  ///< all ones; zero: every code of the row is zero

  /// x / scale, rounded to nearest even. The quotient by the inverse and one correction of it: not for all numbers the true
  /// quotient's rounding, but for every x of bf16 and every scale that is a bf16 over 448 or 127 (the test walks them).
  TANDEM_HD float quotient(float x) const {
    const float raised = x * up;
    const float first = raised * inverse;
    return fmaf(fmaf(-first, divisor, raised), inverse, first);
  }
};

/// Of a row whose largest magnitude is `max`; `largest`: of the codes' type.
TANDEM_HD inline float row_scale(float max, float largest) {
  const bool finite = magnitude_bits(max) < 0x7f800000u;
  return finite ? max / largest : float_of_bits(0x7fc00000u);
}

/// The same; a `max` that is finite must be a bf16.
TANDEM_HD inline RowQuantiser row_quantiser(float max, float largest) {
  const float scale = row_scale(max, largest);
  const bool good = scale > 0.0f;
  // 2^-exponent; of a subnormal scale the largest there is.
  const uint32_t exponent = bits_of_float(scale) >> 23 & 0xffu;
  const float up = good ? float_of_bits((254u - exponent) << 23) : 1.0f;
  const float divisor = good ? scale * up : 1.0f;
  return {.scale = scale,
          .up = up,
          .divisor = divisor,
          .inverse = 1.0f / divisor,
          .keep = good ? 0xffffffffu : 0u};
}

}  // namespace tandem::kernels
