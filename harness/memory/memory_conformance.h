// What every memory level promises, as one test suite: memory_resource_test.cc runs it over the levels that a host has,
// gpu_resource_test.cc over those of a GPU.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/testing/test_seed.h"
#include "harness/memory/memory_resource.h"

namespace tandem {

struct MemoryLevel {
  std::unique_ptr<MemoryResource> upstream;  ///< null for the lowest level
  std::unique_ptr<MemoryResource> resource;
  std::function<void(void* to, int value, int64_t bytes)> fill;
  std::function<int(const void* from)> read;  ///< one byte
};

/// The parameter makes a level, or skips the test by returning one without a resource.
class MemoryConformance : public ::testing::TestWithParam<std::function<MemoryLevel()>> {
 protected:
  void SetUp() override {
    level_ = GetParam()();
    if (level_.resource == nullptr) GTEST_SKIP() << "this machine does not have the level";
  }
  MemoryLevel level_;
};

// Breaks when blocks overlap, are misaligned, lose their content, or are miscounted.
TEST_P(MemoryConformance, BlocksAreDisjointAlignedAndCounted) {
  MemoryResource& r = *level_.resource;
  std::mt19937_64 rng(test_seed());
  struct Held {
    unsigned char* data;
    int64_t bytes;
    int value;
  };
  std::vector<Held> held;
  const auto give_back = [&] {
    const Held h = held.back();
    ASSERT_EQ(level_.read(h.data), h.value);
    ASSERT_EQ(level_.read(h.data + h.bytes / 2), h.value);
    ASSERT_EQ(level_.read(h.data + h.bytes - 1), h.value);
    r.deallocate(h.data, h.bytes);
    held.pop_back();
  };
  for (int i = 0; i < 1000; ++i) {
    if (held.empty() || rng() % 3 != 0) {
      const auto bytes = static_cast<int64_t>(1 + rng() % (rng() % 50 == 0 ? 5'000'000 : 20'000));
      auto* data = static_cast<unsigned char*>(r.allocate(bytes));
      ASSERT_EQ(reinterpret_cast<uintptr_t>(data) % kMemoryAlignment, 0u);
      const int value = static_cast<int>(rng() & 255);
      level_.fill(data, value, bytes);
      held.push_back({data, bytes, value});
    } else {
      std::swap(held[rng() % held.size()], held.back());
      ASSERT_NO_FATAL_FAILURE(give_back());
    }
    const MemoryStats stats = r.stats();
    ASSERT_LE(stats.current_bytes, stats.peak_bytes);
    ASSERT_LE(stats.current_bytes, stats.reserved_bytes);
  }
  while (!held.empty()) ASSERT_NO_FATAL_FAILURE(give_back());
  EXPECT_EQ(r.stats().current_bytes, 0);
  EXPECT_GT(r.stats().peak_bytes, 0);
}

// Breaks when asking for nothing gives a block.
TEST_P(MemoryConformance, NothingIsRefused) {
  EXPECT_THROW(level_.resource->allocate(0), OutOfMemory);
  EXPECT_THROW(level_.resource->allocate(-1), OutOfMemory);
  EXPECT_EQ(level_.resource->stats().current_bytes, 0);
}

// Breaks when a request that cannot be met is not an OutOfMemory with its bytes, or leaves counters behind.
TEST_P(MemoryConformance, TooMuchIsOutOfMemory) {
  const MemoryBlock kept(*level_.resource, 1000);
  const MemoryStats before = level_.resource->stats();
  constexpr int64_t kTooMuch = int64_t{1} << 52;
  try {
    level_.resource->allocate(kTooMuch);
    FAIL() << "4 PiB were handed out";
  } catch (const OutOfMemory& e) {
    EXPECT_EQ(e.bytes(), kTooMuch);
    EXPECT_FALSE(e.level().empty());
  }
  const MemoryStats after = level_.resource->stats();
  EXPECT_EQ(after.current_bytes, before.current_bytes);
  EXPECT_EQ(after.peak_bytes, before.peak_bytes);
  EXPECT_EQ(after.reserved_bytes, before.reserved_bytes);
}

// Breaks when a moved or dropped block is returned twice or never.
TEST_P(MemoryConformance, OwnedBlocksReturnOnce) {
  {
    MemoryBlock a(*level_.resource, 1000);
    MemoryBlock b = std::move(a);
    EXPECT_FALSE(a);
    EXPECT_TRUE(b);
    a = MemoryBlock(*level_.resource, 500);
    b = std::move(a);
  }
  EXPECT_EQ(level_.resource->stats().current_bytes, 0);
}

}  // namespace tandem
