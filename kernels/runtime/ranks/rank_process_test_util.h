// Tests whose ranks are processes with a device each, as those of a case are. Threads of one process would share what a process has:
// a call that waits for a device, as freeing memory or loading a kernel does, waits for those of the other ranks, too.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "harness/parallel/socket_communicator.h"

namespace tandem::kernels {

/// One of the processes that run_in_ranks() has started.
struct RankOfTest {
  int rank = 0;
  int size = 1;
  std::string address;

  /// Meets the others. `meeting` tells one group of a test from the next.
  std::unique_ptr<SocketCommunicator> join(int meeting = 0) const {
    return join_ranks(fmt::format("{}-{}", address, meeting), {.rank = rank, .size = size});
  }
};

/// The rank that this process is; none in the process where the test began.
inline std::optional<RankOfTest> rank_of_test() {
  const char* const rank = std::getenv("TANDEM_TEST_RANK");
  if (rank == nullptr) return std::nullopt;
  return RankOfTest{.rank = std::atoi(rank),
                    .size = std::atoi(std::getenv("TANDEM_TEST_RANKS")),
                    .address = std::getenv("TANDEM_TEST_ADDRESS")};
}

using TestEnvironment = std::vector<std::pair<std::string, std::string>>;
/// Runs the test that is running once more in a process for each of these; what fails there fails here. The processes are started
/// anew: a fork of one that has talked to a device cannot.
inline void run_in_processes(const std::vector<TestEnvironment>& environments) {
  const auto& test = *::testing::UnitTest::GetInstance()->current_test_info();
  const std::string filter = fmt::format("--gtest_filter={}.{}", test.test_suite_name(), test.name());
  const pid_t parent = ::getpid();
  std::vector<pid_t> children;
  for (const TestEnvironment& environment : environments) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // a test that is ended for its time leaves nobody on the card
      if (::getppid() != parent) ::_exit(127);
      for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
      ::execl("/proc/self/exe", "part_of_test", filter.c_str(), "--gtest_brief=1", nullptr);
      ::_exit(127);
    }
    children.push_back(child);
  }
  for (size_t i = 0; i < children.size(); ++i) {
    int status = 0;
    ASSERT_EQ(::waitpid(children[i], &status, 0), children[i]);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
        << "process " << i << " of " << children.size() << ": what it printed is above";
  }
}

/// The same in `size` ranks.
inline void run_in_ranks(int size) {
  static int run = 0;  // the address of an earlier test may still be taken
  const std::string address = fmt::format("unix:/tmp/tandem-test-ranks-{}-{}", ::getpid(), ++run);
  std::vector<TestEnvironment> ranks;
  for (int r = 0; r < size; ++r) {
    ranks.push_back({{"TANDEM_TEST_RANK", std::to_string(r)},
                     {"TANDEM_TEST_RANKS", std::to_string(size)},
                     {"TANDEM_TEST_ADDRESS", address}});
  }
  run_in_processes(ranks);
}

/// Did every rank give the same bytes? The same answer on all of them.
inline bool same_on_all(Communicator& control, const void* bytes, size_t count) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (size_t i = 0; i < count; ++i)
    hash = (hash ^ static_cast<const unsigned char*>(bytes)[i]) * 0x100000001b3;
  std::vector<uint64_t> all(static_cast<size_t>(control.size()));
  control.all_gather(&hash, all.data(), sizeof(hash), nullptr);
  for (const uint64_t other : all) {
    if (other != all[0]) return false;
  }
  return true;
}
template <typename T>
bool same_on_all(Communicator& control, const std::vector<T>& values) {
  return same_on_all(control, values.data(), values.size() * sizeof(T));
}

}  // namespace tandem::kernels
