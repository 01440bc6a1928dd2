// The seed of tests on random inputs: fresh each run, printed, fixed by TANDEM_TEST_SEED.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace tandem {

inline uint64_t test_seed() {
  const char* fixed = std::getenv("TANDEM_TEST_SEED");
  const uint64_t seed = fixed != nullptr ? std::strtoull(fixed, nullptr, 10) : std::random_device{}();
  std::printf("TANDEM_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

}  // namespace tandem
