// Scores as integers that sort, probabilities as integers that add up: with integers no result depends on the order in which
// threads arrive, and a CPU gives the same bits as a card.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "harness/base/host_device.h"

namespace tandem::kernels {

/// Larger scores have larger keys; NaN has the smallest, 0. Equal scores (also -0 and 0) have equal keys.
TANDEM_HD inline uint32_t order_key(float v) {
  if (v != v) return 0;
  const uint32_t bits = std::bit_cast<uint32_t>(v + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
/// The score of a key that is not 0.
TANDEM_HD inline float key_score(uint32_t key) {
  return std::bit_cast<float>((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

/// exp(0) in units of mass. A vocabulary of up to 2^18 ids sums to less than 2^63.
inline constexpr int kMassBits = 44;

/// exp(d) * 2^44 for d <= 0, to 2^-22 relative or 2^-44 absolute; 0 for NaN. Explicit fused steps only: the same bits
/// everywhere. The polynomial is the Taylor series of exp around 0 on [-ln 2 / 2, ln 2 / 2].
TANDEM_HD inline uint64_t mass(float d) {
  if (!(d > -31.0f)) return 0;  // exp(-31) is below half a unit
  if (d > 0) d = 0;
  const float n = rintf(d * 1.44269504f);
  float r = fmaf(n, -0.693145752f, d);  // ln 2 in two parts
  r = fmaf(n, -1.42860677e-6f, r);
  float p = 1.0f / 5040;
  p = fmaf(p, r, 1.0f / 720);
  p = fmaf(p, r, 1.0f / 120);
  p = fmaf(p, r, 1.0f / 24);
  p = fmaf(p, r, 1.0f / 6);
  p = fmaf(p, r, 0.5f);
  p = fmaf(p, r, 1.0f);
  p = fmaf(p, r, 1.0f);
  // p in [0.707, 1.415): 24 bits of it are exact in a 2^-24 grid.
  const auto whole = static_cast<uint64_t>(static_cast<uint32_t>(p * 16777216.0f)) << (kMassBits - 24);
  return whole >> static_cast<int>(-n);
}

/// log(sum of exp(v - highest)) from the sum of masses.
TANDEM_HD inline double log_mass(uint64_t total) {
  return log(static_cast<double>(total)) - kMassBits * 0.693147180559945309417;
}

/// log-softmax of one score.
TANDEM_HD inline float log_probability(float score, float highest, double log_sum) {
  return static_cast<float>(static_cast<double>(score) - static_cast<double>(highest) - log_sum);
}

}  // namespace tandem::kernels
