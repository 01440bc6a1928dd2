// The seed of tests on random inputs: fresh each run, printed, fixed by TANDEM_TEST_SEED.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace tandem {

inline uint64_t fixed_seed_or(uint64_t fresh) {
  const char* fixed = std::getenv("TANDEM_TEST_SEED");
  const uint64_t seed = fixed != nullptr ? std::strtoull(fixed, nullptr, 10) : fresh;
  std::printf("TANDEM_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

inline uint64_t test_seed() {
  return fixed_seed_or(std::random_device{}());
}

/// Fresh each day: the parts of one array that run in processes of their own must draw the same array.
inline uint64_t test_seed_of_the_day() {
  const auto now = std::chrono::system_clock::now();
  return fixed_seed_or(
      static_cast<uint64_t>(std::chrono::floor<std::chrono::days>(now).time_since_epoch().count()));
}

}  // namespace tandem
