#include "harness/memory/level1_cache.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "harness/base/error.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

class Level1 : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(::testing::TempDir()) / ("tandem-l1-" + std::to_string(::getpid()));
    fs::create_directories(root_ / "run");
    fs::create_directories(root_ / "shm");
  }
  void TearDown() override { fs::remove_all(root_); }
  Level1Cache::Options options() {
    return {
        .run_dir = (root_ / "run").string(), .cap_bytes = 1 << 20, .shared_dir = (root_ / "shm").string()};
  }
  static std::function<void(std::span<std::byte>)> filler(int value, int* calls = nullptr) {
    return [=](std::span<std::byte> out) {
      if (calls != nullptr) ++*calls;
      std::fill(out.begin(), out.end(), static_cast<std::byte>(value));
    };
  }
  fs::path root_;
};

// Breaks when an object is made again although it is there, or keys share one.
TEST_F(Level1, MakesEachObjectOnce) {
  Level1Cache cache(options());
  int calls = 0;
  const Level1Object a = cache.get("weights", 5000, filler(1, &calls));
  const Level1Object again = cache.get("weights", 5000, filler(2, &calls));
  const Level1Object other = cache.get("other", 5000, filler(3, &calls));
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(static_cast<const unsigned char*>(again.data())[4999], 1);
  EXPECT_EQ(static_cast<const unsigned char*>(other.data())[0], 3);
  EXPECT_EQ(cache.used_bytes(), 10000);
}

// Breaks when several processes make one object, or one maps it before it is whole.
TEST_F(Level1, ProcessesShareOneMaker) {
  const std::string log = (root_ / "made").string();
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      Level1Cache cache(options());
      const Level1Object object = cache.get("shared", 100000, [&](std::span<std::byte> out) {
        std::ofstream(log, std::ios::app) << "x";
        ::usleep(100000);
        std::fill(out.begin(), out.end(), std::byte{7});
      });
      const auto* bytes = static_cast<const unsigned char*>(object.data());
      ::_exit(std::all_of(bytes, bytes + object.bytes(), [](unsigned char b) { return b == 7; }) ? 0 : 1);
    }
    children.push_back(pid);
  }
  for (pid_t pid : children) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(fs::file_size(log), 1u);
}

// Breaks when what a dead maker left is taken for a whole object.
TEST_F(Level1, DeadMakerLeavesNothing) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    Level1Cache cache(options());
    cache.get("key", 5000, [](std::span<std::byte>) { ::_exit(9); });
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  Level1Cache cache(options());
  int calls = 0;
  const Level1Object object = cache.get("key", 5000, filler(4, &calls));
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(static_cast<const unsigned char*>(object.data())[0], 4);
}

// Breaks when what dead makers left fills the shared memory until the run ends.
TEST_F(Level1, UnfinishedObjectsAreRemovedByTheNextMaker) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    Level1Cache cache(options());
    cache.get("first", 5000, [](std::span<std::byte>) { ::_exit(9); });
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  Level1Cache cache(options());
  const Level1Object object = cache.get("second", 5000, filler(4));
  for (const auto& entry : fs::directory_iterator(cache.directory())) {
    EXPECT_NE(entry.path().extension(), ".making") << entry.path();
  }
}

// Breaks when an object of no bytes is made.
TEST_F(Level1, NothingIsRefused) {
  Level1Cache cache(options());
  EXPECT_THROW(cache.get("k", 0, filler(1)), OutOfMemory);
}

// Breaks when the cap is not kept, or the error does not say how much of what.
TEST_F(Level1, CapIsAnOutOfMemory) {
  Level1Cache cache(options());
  const Level1Object first = cache.get("a", 700000, filler(1));
  try {
    cache.get("b", 700000, filler(2));
    FAIL() << "1.4 MB under a cap of 1 MiB";
  } catch (const OutOfMemory& e) {
    EXPECT_EQ(e.bytes(), 700000);
    EXPECT_EQ(e.level(), "Level-1 cache");
  }
}

// Breaks when there is no shared memory and the run folder is not used instead.
TEST_F(Level1, FallsBackToTheRunFolder) {
  Level1Cache::Options o = options();
  o.shared_dir = "/proc/nowhere";
  Level1Cache cache(o);
  EXPECT_EQ(cache.directory().rfind(o.run_dir, 0), 0u) << cache.directory();
  EXPECT_EQ(static_cast<const unsigned char*>(cache.get("k", 10, filler(5)).data())[9], 5);
  Level1Cache::remove(o);
  EXPECT_FALSE(fs::exists(cache.directory()));
}

// Breaks when leftovers of dead runs stay for ever, or the cache of a living one is removed.
TEST_F(Level1, LeftoversOfTheDeadAreRemoved) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    Level1Cache::Options o = options();
    o.run_dir += "-dead";
    Level1Cache cache(o);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  Level1Cache living(options());
  EXPECT_EQ(Level1Cache::remove_leftovers(options().shared_dir), 1);
  EXPECT_TRUE(fs::exists(living.directory()));
}

// Breaks when a process that got a dead owner's id keeps its cache alive, or a cache that is being made is removed.
TEST_F(Level1, OwnersAreProcessesNotIds) {
  Level1Cache cache(options());
  std::ofstream(fs::path(cache.directory()) / "owner")
      << ::getpid() << " 1\n";  // this id, but started at boot
  EXPECT_EQ(Level1Cache::remove_leftovers(options().shared_dir), 1);

  const fs::path fresh = root_ / "shm" / "tandem-level1-fresh";
  fs::create_directories(fresh);
  EXPECT_EQ(Level1Cache::remove_leftovers(options().shared_dir), 0);
  fs::last_write_time(fresh, fs::file_time_type::clock::now() - std::chrono::hours(1));
  EXPECT_EQ(Level1Cache::remove_leftovers(options().shared_dir), 1);
}

}  // namespace
}  // namespace tandem
