// fp16 and bf16 as bit patterns on the host: round-to-nearest-even conversions, and rounding to tf32.
// The device uses CUDA's own types; these give the reference weights and inputs rounded exactly alike.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace tandem {

inline uint16_t float_to_bf16(float f) {
  uint32_t u = std::bit_cast<uint32_t>(f);
  if (std::isnan(f)) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

inline float bf16_to_float(uint16_t h) {
  return std::bit_cast<float>(static_cast<uint32_t>(h) << 16);
}

inline uint16_t float_to_fp16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (a >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and up round to infinity
  if (a < 0x38800000u) {                                               // below 2^-14: subnormal in fp16
    // Adding 0.5 aligns the mantissa so that the hardware's own rounding does round-to-nearest-even.
    const float shifted = std::bit_cast<float>(a) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t odd = (a >> 13) & 1u;
  return static_cast<uint16_t>(sign | ((a - 0x38000000u + 0xfffu + odd) >> 13));
}

inline float fp16_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t e = (h >> 10) & 31u;
  const uint32_t m = h & 1023u;
  if (e == 31) return std::bit_cast<float>(sign | 0x7f800000u | (m << 13));
  if (e == 0) {
    const float v = static_cast<float>(m) * 0x1p-24f;
    return sign != 0 ? -v : v;
  }
  return std::bit_cast<float>(sign | ((e + 112u) << 23) | (m << 13));
}

/// tf32 keeps 10 mantissa bits; round to nearest, ties away from zero, as cvt.rna.tf32.f32 does.
inline float round_to_tf32(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7f800000u) == 0x7f800000u) return f;
  return std::bit_cast<float>((u + 0x1000u) & 0xffffe000u);
}

/// fp8 e4m3 (Micikevicius et al. 2022, "FP8 formats for deep learning"): no infinity, one NaN a sign. To nearest even; what
/// is beyond the largest, 448, becomes it, as the hardware's saturating conversion has it.
inline uint8_t float_to_f8(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  const auto sign = static_cast<uint8_t>((u >> 24) & 0x80u);
  const uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return sign | 0x7fu;
  if (a >= 0x43e00000u) return sign | 0x7eu;  // 448
  if (a < 0x3c800000u) {                      // below 2^-6: subnormal, units of 2^-9
    const float shifted = std::bit_cast<float>(a) + 0x1p14f;
    return static_cast<uint8_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x46800000u));
  }
  const uint32_t odd = (a >> 20) & 1u;
  return static_cast<uint8_t>(sign | ((a - 0x3c000000u + 0x7ffffu + odd) >> 20));
}

inline float f8_to_float(uint8_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x80u) << 24;
  const uint32_t e = (h >> 3) & 15u, m = h & 7u;
  if (e == 15 && m == 7) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (e == 0) return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(static_cast<float>(m) * 0x1p-9f));
  return std::bit_cast<float>(sign | ((e + 120u) << 23) | (m << 20));
}

}  // namespace tandem
