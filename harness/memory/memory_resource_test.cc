// The conformance suite over the levels that a host has, then what is special about the caching one.
#include "harness/memory/memory_resource.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "harness/base/error.h"
#include "harness/memory/caching_resource.h"
#include "harness/memory/memory_conformance.h"

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

MemoryLevel on_host(std::unique_ptr<MemoryResource> upstream, std::unique_ptr<MemoryResource> resource) {
  return {
      .upstream = std::move(upstream),
      .resource = std::move(resource),
      .fill = [](void* to, int value, int64_t bytes) { std::memset(to, value, static_cast<size_t>(bytes)); },
      .read = [](const void* from) { return static_cast<int>(*static_cast<const unsigned char*>(from)); }};
}
MemoryLevel host_level() {
  return on_host(nullptr, make_host_resource());
}
MemoryLevel caching_level() {
  auto upstream = make_host_resource();
  auto caching = std::make_unique<CachingResource>(*upstream);
  return on_host(std::move(upstream), std::move(caching));
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(Levels, MemoryConformance, ::testing::Values(host_level, caching_level),
                         [](const auto& info) { return info.index == 0 ? "Host" : "Caching"; });

namespace {

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

/// Addresses that nobody looks behind, each new one above all before it: no driver could do less for an order of its own.
class Endless : public MemoryResource {
 public:
  void* allocate(int64_t bytes) override {
    void* block = reinterpret_cast<void*>(next_);
    next_ += static_cast<uintptr_t>(bytes);
    return block;
  }
  void deallocate(void*, int64_t) noexcept override {}
  std::string_view level() const override { return "GPU memory"; }
  MemoryStats stats() const override { return {}; }

 private:
  uintptr_t next_ = uintptr_t{1} << 40;
};

/// Where the blocks of each case lie when cases of these sizes are measured in this order, after weights that stay.
std::vector<std::vector<void*>> places(const std::vector<std::vector<int64_t>>& cases,
                                       const std::vector<size_t>& order, int64_t kept_bytes) {
  Endless driver;
  CachingResource cache(driver);
  MemoryBlock weights(cache, 30'000'000), tables(cache, 5'000);
  std::vector<std::vector<void*>> found(cases.size());
  for (const size_t i : order) {
    if (kept_bytes > 0) cache.keep(kept_bytes);
    std::vector<MemoryBlock> blocks;
    for (const int64_t bytes : cases[i]) {
      blocks.emplace_back(cache, bytes);
      found[i].push_back(blocks.back().data());
    }
  }
  return found;
}

// Breaks when the place of a case's memory depends on the cases before it, which moves its time by up to a percent: on a card
// the cases of a process are in another order in every pair.
TEST(Caching, APlaceDoesNotDependOnTheOrderOfCases) {
  const std::vector<std::vector<int64_t>> cases = {{5'000'000, 300'000, 700},
                                                   {40'000'000, 1'000, 9'000'000, 3'000'000},
                                                   {900'000, 900'000},
                                                   {6'000'000, 6'000'000, 2'100'000}};
  std::vector<size_t> order = {0, 1, 2, 3};
  const auto kept = places(cases, order, 60'000'000), left = places(cases, order, 0);
  bool left_alone_moves = false;
  while (std::next_permutation(order.begin(), order.end())) {
    EXPECT_EQ(places(cases, order, 60'000'000), kept);
    left_alone_moves = left_alone_moves || places(cases, order, 0) != left;
  }
  EXPECT_TRUE(left_alone_moves) << "the test would see it";
}

// Breaks when a case that needs more than was foreseen leaves a segment behind that the next one is put in, or the kept
// segment is lost, grows by itself, or is kept from a request that needs its room.
TEST(Caching, OneSegmentIsKept) {
  LimitedUpstream upstream(int64_t{96} << 20);
  CachingResource cache(upstream);
  cache.keep(int64_t{32} << 20);
  EXPECT_EQ(cache.stats().reserved_bytes, int64_t{32} << 20);
  { MemoryBlock more(cache, int64_t{40} << 20); }
  EXPECT_EQ(cache.stats().reserved_bytes, int64_t{72} << 20);
  cache.keep(int64_t{32} << 20);
  EXPECT_EQ(cache.stats().reserved_bytes, int64_t{32} << 20);
  cache.keep(int64_t{48} << 20);
  EXPECT_EQ(cache.stats().reserved_bytes, int64_t{48} << 20) << "one that is too small goes";
  { MemoryBlock whole(cache, int64_t{90} << 20); }
  cache.keep(int64_t{200} << 20);
  EXPECT_EQ(cache.stats().reserved_bytes, 0) << "no room for it: cases that need less still run";
  MemoryBlock less(cache, int64_t{90} << 20);
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

// Breaks when a block that was never handed out, or was returned before, silently corrupts the cache.
TEST(CachingDeathTest, ForeignAndDoubleReturnsAbort) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto host = make_host_resource();
  CachingResource cache(*host);
  void* block = cache.allocate(1000);
  cache.deallocate(block, 1000);
  EXPECT_DEATH(cache.deallocate(block, 1000), "Level-2 cache: .* was not handed out");
  int other = 0;
  EXPECT_DEATH(cache.deallocate(&other, 4), "Level-2 cache: .* was not handed out");
}

}  // namespace
}  // namespace tandem
