// One conformance suite for every level that a host has, then what is special about the caching one.
#include "harness/memory/memory_resource.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/test_seed.h"
#include "harness/memory/caching_resource.h"

namespace tandem {
namespace {

/// Host memory that refuses from a number of bytes on.
class LimitedUpstream : public MemoryResource {
 public:
  explicit LimitedUpstream(int64_t limit) : limit_(limit) {}
  void* allocate(int64_t bytes) override {
    if (stats().current_bytes + bytes > limit_) throw OutOfMemory(bytes, "GPU memory");
    return host_->allocate(bytes);
  }
  void deallocate(void* block, int64_t bytes) noexcept override { host_->deallocate(block, bytes); }
  std::string_view level() const override { return "GPU memory"; }
  MemoryStats stats() const override { return host_->stats(); }

 private:
  int64_t limit_;
  std::unique_ptr<MemoryResource> host_ = make_host_resource();
};

struct Level {
  std::unique_ptr<MemoryResource> upstream;
  std::unique_ptr<MemoryResource> resource;
};
Level host_level() { return {nullptr, make_host_resource()}; }
Level caching_level() {
  auto upstream = make_host_resource();
  auto caching = std::make_unique<CachingResource>(*upstream);
  return {std::move(upstream), std::move(caching)};
}

class Conformance : public ::testing::TestWithParam<std::function<Level()>> {};

// Breaks when blocks overlap, are misaligned, lose their content, or are miscounted.
TEST_P(Conformance, BlocksAreDisjointAlignedAndCounted) {
  Level level = GetParam()();
  MemoryResource& r = *level.resource;
  std::mt19937_64 rng(test_seed());
  struct Held {
    unsigned char* data;
    int64_t bytes;
    unsigned char fill;
  };
  std::vector<Held> held;
  for (int i = 0; i < 2000; ++i) {
    if (held.empty() || rng() % 3 != 0) {
      const auto bytes = static_cast<int64_t>(1 + rng() % (rng() % 50 == 0 ? 5'000'000 : 20'000));
      auto* data = static_cast<unsigned char*>(r.allocate(bytes));
      ASSERT_EQ(reinterpret_cast<uintptr_t>(data) % kMemoryAlignment, 0u);
      const auto fill = static_cast<unsigned char>(rng());
      std::memset(data, fill, static_cast<size_t>(bytes));
      held.push_back({data, bytes, fill});
    } else {
      std::swap(held[rng() % held.size()], held.back());
      const Held h = held.back();
      ASSERT_EQ(h.data[0], h.fill);
      ASSERT_EQ(h.data[h.bytes - 1], h.fill);
      r.deallocate(h.data, h.bytes);
      held.pop_back();
    }
    ASSERT_LE(r.stats().current_bytes, r.stats().peak_bytes);
    ASSERT_LE(r.stats().current_bytes, r.stats().reserved_bytes);
  }
  for (const Held& h : held) r.deallocate(h.data, h.bytes);
  EXPECT_EQ(r.stats().current_bytes, 0);
  EXPECT_GT(r.stats().peak_bytes, 0);
}

// Breaks when asking for nothing gives a block.
TEST_P(Conformance, NothingIsRefused) {
  Level level = GetParam()();
  EXPECT_THROW(level.resource->allocate(0), OutOfMemory);
  EXPECT_THROW(level.resource->allocate(-1), OutOfMemory);
}

// Breaks when a moved or dropped block is returned twice or never.
TEST_P(Conformance, OwnedBlocksReturnOnce) {
  Level level = GetParam()();
  {
    MemoryBlock a(*level.resource, 1000);
    MemoryBlock b = std::move(a);
    EXPECT_FALSE(a);
    EXPECT_TRUE(b);
    a = MemoryBlock(*level.resource, 500);
    b = std::move(a);
  }
  EXPECT_EQ(level.resource->stats().current_bytes, 0);
}

INSTANTIATE_TEST_SUITE_P(Levels, Conformance, ::testing::Values(host_level, caching_level),
                         [](const auto& info) { return info.index == 0 ? "Host" : "Caching"; });

// Breaks when a steady state still calls the level below.
TEST(Caching, SteadyStateMakesNoUpstreamCall) {
  LimitedUpstream upstream(int64_t{1} << 30);
  CachingResource cache(upstream);
  auto step = [&] {
    MemoryBlock a(cache, 10'000'000), b(cache, 300), c(cache, 70'000);
    a.reset();
    MemoryBlock d(cache, 4'000'000), e(cache, 5'000'000);
  };
  step();
  const int64_t calls = cache.stats().upstream_calls;
  for (int i = 0; i < 100; ++i) step();
  EXPECT_EQ(cache.stats().upstream_calls, calls);
  EXPECT_EQ(cache.stats().current_bytes, 0);
}

// Breaks when a failed allocation leaves counters or memory behind.
TEST(Caching, CountersRollBackWhenTheUpstreamFails) {
  LimitedUpstream upstream(8 << 20);
  CachingResource cache(upstream);
  MemoryBlock kept(cache, 3 << 20);
  const MemoryStats before = cache.stats();
  try {
    MemoryBlock too_much(cache, 64 << 20);
    FAIL() << "64 MiB out of 8";
  } catch (const OutOfMemory& e) {
    EXPECT_EQ(e.bytes(), 64 << 20);
    EXPECT_EQ(e.level(), "GPU memory");
  }
  EXPECT_EQ(cache.stats().current_bytes, before.current_bytes);
  EXPECT_EQ(cache.stats().peak_bytes, before.peak_bytes);
  EXPECT_EQ(cache.stats().reserved_bytes, before.reserved_bytes);
}

// Breaks when idle segments stand in the way of a request that would fit without them.
TEST(Caching, GivesIdleSegmentsBackBeforeFailing) {
  LimitedUpstream upstream(8 << 20);
  CachingResource cache(upstream);
  { MemoryBlock a(cache, 3 << 20), b(cache, 3 << 20); }
  MemoryBlock c(cache, 7 << 20);
  EXPECT_TRUE(c);
  EXPECT_EQ(cache.stats().reserved_bytes, 7 << 20);
}

// Breaks when freed neighbours stay apart: a block of their whole size would then need a new segment.
TEST(Caching, NeighboursMerge) {
  LimitedUpstream upstream(int64_t{1} << 30);
  CachingResource cache(upstream);
  MemoryBlock whole(cache, 8 << 20);
  whole.reset();
  MemoryBlock a(cache, 2 << 20), b(cache, 2 << 20), c(cache, 2 << 20), d(cache, 2 << 20);
  b.reset();
  d.reset();
  EXPECT_NEAR(cache.fragmentation(), 0.5, 1e-9);
  c.reset();
  EXPECT_EQ(cache.fragmentation(), 0);
  a.reset();
  const int64_t calls = cache.stats().upstream_calls;
  MemoryBlock again(cache, 8 << 20);
  EXPECT_EQ(cache.stats().upstream_calls, calls);
}

}  // namespace
}  // namespace tandem
