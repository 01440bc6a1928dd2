// Runs that are cut off: by SIGKILL, by Ctrl-C, by a full disk.
#include <random>

#include "harness/base/testing/test_seed.h"
#include "harness/driver/testing/driver_fixture.h"

namespace tandem {
namespace {

using testing::DriverTest;
using testing::Finished;
using testing::json;
namespace fs = std::filesystem;

std::set<std::string> keys_of(const std::vector<Record>& records) {
  std::set<std::string> keys;
  for (const Record& r : records) keys.insert(fmt::format("{} {}", r.id, r.worker));
  return keys;
}

// Without it a kill corrupts the run, loses records, or makes a resume measure again what it has.
TEST_F(DriverTest, SigkillAtRandomMomentsAndResume) {
  std::mt19937_64 random(test_seed());
  environment_["TANDEM_FAKE_SLEEP_MS"] = "6";
  std::vector<int> batches;
  for (int i = 1; i <= 15; ++i) batches.push_back(i);
  const std::string path = sweep(batches);
  // TANDEM_TEST_KILLS=200 for a long night.
  const char* wanted = std::getenv("TANDEM_TEST_KILLS");
  const int enough = wanted != nullptr ? std::atoi(wanted) : 24;
  int kills = 0;
  while (kills < enough) {
    fs::remove_all(run_dir());
    bool finished = false;
    int in_this_run = 0;
    while (!finished) {
      std::set<std::string> before;
      if (fs::exists(run_dir() + "/records.jsonl")) before = keys_of(records());
      const size_t logged = log_lines().size();
      const bool resume = fs::exists(run_dir());
      // Longer and longer, so that slow machines come to an end too.
      const int wait_ms = std::uniform_int_distribution<int>(1, 120 + 20 * in_this_run++)(random);
      const pid_t pid = start(run_args(path, resume ? std::vector<std::string>{"--workers", "2", "--resume"}
                                                    : std::vector<std::string>{"--workers", "2"}));
      std::this_thread::sleep_for(std::chrono::milliseconds(wait_ms));
      ::kill(pid, SIGKILL);
      const Finished f = wait_for(pid);
      finished = f.signal == 0;
      if (finished) {
        ASSERT_EQ(f.code, 0) << f.err;
      } else {
        ++kills;
        ASSERT_TRUE(soon([&] { return workers_gone(); })) << "workers die with the driver";
      }
      const auto lines = log_lines();
      for (size_t i = logged; i < lines.size(); ++i) {
        const std::string key = lines[i].substr(0, lines[i].find(' ', 17));
        EXPECT_FALSE(before.contains(key)) << "measured again: " << key;
      }
      if (!fs::exists(run_dir() + "/records.jsonl")) continue;
      std::string warning;
      const auto now = keys_of(read_records(run_dir() + "/records.jsonl", &warning));
      for (const std::string& key : before) EXPECT_TRUE(now.contains(key)) << "lost: " << key;
    }
    EXPECT_EQ(by_batch_and_worker().size(), 2 * batches.size());
    EXPECT_EQ(json::parse(read_file(run_dir() + "/benchmark.json"))["benchmarks"].size(), 2 * batches.size());
  }
}

// Without it Ctrl-C would leave workers behind, lose the run, or not say how to go on.
TEST_F(DriverTest, CtrlCStopsAndSaysHowToGoOn) {
  for (const int signal : {SIGINT, SIGTERM}) {
    fs::remove_all(run_dir());
    fs::remove(log());
    environment_["TANDEM_FAKE_FAULTS"] = "7:hang-later";
    const std::string path = sweep({1, 2, 3, 4, 5, 6, 7, 8});
    const pid_t pid = start(run_args(path, {"--workers", "3"}));
    ASSERT_TRUE(soon([&] { return fs::exists(run_dir() + "/records.jsonl") && records().size() >= 8; }));
    ::kill(pid, signal);
    Finished f = wait_for(pid);
    EXPECT_EQ(f.code, 130);
    const size_t had = records().size();
    EXPECT_NE(
        f.err.find(fmt::format("interrupted with {} records; continue with: {} run {} --out {} --resume", had,
                               TANDEM_BINARY, path, run_dir())),
        std::string::npos)
        << f.err;
    EXPECT_TRUE(soon([&] { return workers_gone(); }));
    EXPECT_EQ(json::parse(read_file(run_dir() + "/benchmark.json"))["benchmarks"].size(), had);

    environment_["TANDEM_FAKE_FAULTS"] = "";
    f = tandem(run_args(path, {"--workers", "3", "--resume"}));
    EXPECT_EQ(f.code, 0) << f.err;
    EXPECT_EQ(by_batch_and_worker().size(), 24u);
  }
}

// Without it a full disk would lose records, or end in something else than one line that names the file.
TEST_F(DriverTest, AFullDiskIsOneLineAndNothingIsLost) {
  const std::string path = sweep({1, 2, 3, 4, 5, 6, 7, 8});
  // A limit on the size of files stands for the disk; it leaves room for some records.
  const Finished f = wait_for(start(run_args(path, {"--workers", "2"}), 16384));
  EXPECT_EQ(f.code, 1) << f.err;
  const std::string expected = fmt::format(
      "tandem: cannot write {}/records.jsonl: File too large; the {} records before are "
      "kept, continue with: {} run",
      run_dir(), records().size(), TANDEM_BINARY);
  EXPECT_NE(f.err.find(expected), std::string::npos) << f.err;
  EXPECT_GT(records().size(), 0u);
  const auto before = keys_of(records());
  fs::remove(log());
  EXPECT_EQ(tandem(run_args(path, {"--workers", "2", "--resume"})).code, 0);
  EXPECT_EQ(by_batch_and_worker().size(), 16u);
  for (const std::string& line : log_lines())
    EXPECT_FALSE(before.contains(line.substr(0, line.find(' ', 17)))) << line;
}

// Without it records of two builds, sweeps or engines would end up in one run.
TEST_F(DriverTest, AResumeMustBeOfTheSameRun) {
  const std::string path = sweep({1, 2});
  ASSERT_EQ(tandem(run_args(path, {"--workers", "1"})).code, 0);
  Finished f = tandem(run_args(path, {"--workers", "1"}));
  EXPECT_EQ(f.code, 2);
  EXPECT_NE(f.err.find("holds a run already; add --resume"), std::string::npos) << f.err;

  f = tandem(run_args(sweep({1, 2, 3}, json::object(), "other.json"), {"--workers", "1", "--resume"}));
  EXPECT_EQ(f.code, 2);
  EXPECT_NE(f.err.find("was made with another sweep"), std::string::npos) << f.err;

  fs::remove(bin() / "suite_decoder");
  fs::copy_file(TANDEM_FAKE_SUITE, bin() / "suite_decoder");
  f = tandem(run_args(path, {"--workers", "1", "--resume"}));
  EXPECT_EQ(f.code, 0) << "the same build under another path: " << f.err;
  std::ofstream(bin() / "suite_decoder", std::ios::app) << "x";
  f = tandem(run_args(path, {"--workers", "1", "--resume"}));
  EXPECT_EQ(f.code, 2);
  EXPECT_NE(f.err.find("was made with another build of suite_decoder"), std::string::npos) << f.err;
}

// Without it more workers could not be added to a run, or a resume would repeat failed cases for ever.
TEST_F(DriverTest, AResumeAddsOnlyWhatIsMissing) {
  environment_["TANDEM_FAKE_FAULTS"] = "2:segv,3:invalid";
  const std::string path = sweep({1, 2, 3});
  ASSERT_EQ(tandem(run_args(path, {"--workers", "1"})).code, 1);
  ASSERT_EQ(records().size(), 3u);
  fs::remove(log());
  ASSERT_EQ(tandem(run_args(path, {"--workers", "3", "--resume"})).code, 1);
  EXPECT_EQ(records().size(), 5u);
  EXPECT_EQ(log_lines().size(), 2u);
}

}  // namespace
}  // namespace tandem
