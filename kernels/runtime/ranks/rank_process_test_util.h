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

/// Runs the test that is running once more in each of `size` processes; what fails there fails here. The processes are started anew:
/// a fork of one that has talked to a device cannot.
inline void run_in_ranks(int size) {
  const auto& test = *::testing::UnitTest::GetInstance()->current_test_info();
  const std::string filter = fmt::format("--gtest_filter={}.{}", test.test_suite_name(), test.name());
  const std::string address = new_local_address();
  const std::string ranks = std::to_string(size);
  const pid_t parent = ::getpid();
  std::vector<pid_t> children;
  for (int r = 0; r < size; ++r) {
    const std::string rank = std::to_string(r);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // a test that is ended for its time leaves nobody on the card
      if (::getppid() != parent) ::_exit(127);
      ::setenv("TANDEM_TEST_RANK", rank.c_str(), 1);
      ::setenv("TANDEM_TEST_RANKS", ranks.c_str(), 1);
      ::setenv("TANDEM_TEST_ADDRESS", address.c_str(), 1);
      ::execl("/proc/self/exe", "rank_of_test", filter.c_str(), "--gtest_brief=1", nullptr);
      ::_exit(127);
    }
    children.push_back(child);
  }
  for (size_t r = 0; r < children.size(); ++r) {
    int status = 0;
    ASSERT_EQ(::waitpid(children[r], &status, 0), children[r]);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
        << "rank " << r << " of " << size << ": what it printed is above";
  }
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
