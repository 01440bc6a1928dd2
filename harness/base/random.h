// Counter-based random numbers: a value is a pure function of (seed, name, index), the same bits on CPU, GPU and in
// Python (reports/tests/test_random.py holds the twin). Integer operations, a sum of uniforms and one multiplication by a
// power of two: nothing a compiler may contract or reorder.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

#include "harness/base/host_device.h"

namespace tandem {

/// The finaliser of splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
TANDEM_HD constexpr uint64_t mix64(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

/// Random 64 bits at `index` of the stream `key`.
TANDEM_HD constexpr uint64_t random_bits(uint64_t key, uint64_t index) {
  return mix64(key + (index + 1) * 0x9e3779b97f4a7c15ull);
}

/// The stream of a named tensor: FNV-1a over the name, mixed with the seed.
constexpr uint64_t stream_key(uint64_t seed, std::string_view name) {
  uint64_t h = 0xcbf29ce484222325ull;
  for (char c : name) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  return mix64(h ^ mix64(seed));
}

/// Sum of four centred 16-bit uniforms: integer in [-131070, 131070], mean 0, standard deviation kCentredSumStd.
TANDEM_HD constexpr int32_t centred_sum(uint64_t key, uint64_t index) {
  const uint64_t r = random_bits(key, index);
  return static_cast<int32_t>((r & 0xffff) + ((r >> 16) & 0xffff) + ((r >> 32) & 0xffff) + (r >> 48)) -
         131070;
}
inline constexpr double kCentredSumStd = 37837.23;

/// 2^e for a normal exponent, without a transcendental function.
TANDEM_HD constexpr float power_of_two(int e) {
  return std::bit_cast<float>(static_cast<uint32_t>(e + 127) << 23);
}

/// Uniform integer in [0, n) by the multiply-shift method; the bias is below n / 2^32.
TANDEM_HD constexpr uint32_t uniform_below(uint64_t key, uint64_t index, uint32_t n) {
  return static_cast<uint32_t>(((random_bits(key, index) >> 32) * n) >> 32);
}

}  // namespace tandem
