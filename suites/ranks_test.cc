// Cases of several ranks end to end, with the binaries as a user has them: started by a worker, as if by mpirun, and with a rank
// that is killed.
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "harness/parallel/socket.h"
#include "harness/record/record.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Nothing of a process that ends while it is read.
std::string read_text(const fs::path& path) {
  std::ifstream in(path);
  try {
    return {std::istreambuf_iterator<char>(in), {}};
  } catch (const std::ios_base::failure&) {
    return {};
  }
}

struct Finished {
  int code = -1;
  std::string out, err;
};

class RanksTest : public ::testing::Test {
 protected:
  RanksTest() {
    std::string name = (fs::temp_directory_path() / "tandem_ranks_test.XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~RanksTest() override { fs::remove_all(folder_); }

  static std::string suite(const char* name) {
    return fs::path(TANDEM_BINARY).parent_path() / fmt::format("suite_{}", name);
  }

  using Variables = std::map<std::string, std::string>;

  /// Starts a program; `finish` brings its end.
  pid_t start(const std::vector<std::string>& words, const Variables& variables = {}) {
    const int number = started_++;
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::setenv("XDG_CACHE_HOME", (folder_ / "cache").c_str(), 1);
      ::setenv("CUDA_VISIBLE_DEVICES", "", 1);
      for (const auto& [key, value] : variables) ::setenv(key.c_str(), value.c_str(), 1);
      ::dup2(::open(file(number, "out").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), 1);
      ::dup2(::open(file(number, "err").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), 2);
      std::vector<char*> argv;
      for (const std::string& w : words) argv.push_back(const_cast<char*>(w.c_str()));
      argv.push_back(nullptr);
      ::execv(argv[0], argv.data());
      ::_exit(126);
    }
    numbers_[pid] = number;
    return pid;
  }
  Finished finish(pid_t pid) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    Finished f;
    if (WIFEXITED(status)) f.code = WEXITSTATUS(status);
    f.out = read_text(file(numbers_[pid], "out"));
    f.err = read_text(file(numbers_[pid], "err"));
    return f;
  }

  fs::path file(int number, const char* what) const { return folder_ / fmt::format("{}.{}", number, what); }
  std::string run_dir() const { return folder_ / "run"; }

  std::vector<std::string> run_args(const json& groups) {
    std::ofstream(folder_ / "s.json") << json{{"groups", groups}};
    return {TANDEM_BINARY, "run",       folder_ / "s.json", "--out", run_dir(),
            "--engine",    "reference", "--workers",        "1"};
  }

  std::map<std::string, Record> records() const {
    std::map<std::string, Record> found;
    for (const Record& r : read_records(run_dir() + "/records.jsonl", nullptr)) found.emplace(r.name, r);
    return found;
  }

  /// Processes of this run's ranks: they were given our folder's worker as parent, or outlived it.
  std::vector<pid_t> ranks_running() const {
    std::vector<pid_t> found;
    for (const auto& entry : fs::directory_iterator("/proc")) {
      const std::string name = entry.path().filename();
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      const std::string words = read_text(entry.path() / "cmdline");
      const std::string environment = read_text(entry.path() / "environ");
      if (words.find("--rendezvous") != std::string::npos &&
          environment.find(folder_.filename().string()) != std::string::npos) {
        found.push_back(std::stoi(name));
      }
    }
    return found;
  }

  /// The command of a process's parent.
  static std::string parent_words(pid_t pid) {
    const std::string stat = read_text(fmt::format("/proc/{}/stat", pid));
    int parent = 0;
    if (std::sscanf(stat.c_str() + stat.rfind(')') + 1, " %*c %d", &parent) != 1) return "";
    return read_text(fmt::format("/proc/{}/cmdline", parent));
  }

  fs::path folder_;
  int started_ = 0;
  std::map<pid_t, int> numbers_;
};

// Breaks when two processes do not compute the model that one does: sharding, sums, a vocabulary that is split, replicas.
TEST_F(RanksTest, TheWorkerStartsThemAndTheyAgreeWithOneRank) {
  const json tp = {1, 2}, dp = {1, 2};
  const Finished f = finish(start(run_args({{{"suite", "generate"},
                                             {"model", "tiny"},
                                             {"precision", "fp32"},
                                             {"batch", 3},
                                             {"src", 9},
                                             {"tgt", 6},
                                             {"lengths", "ragged:0.6"},
                                             {"tp", tp},
                                             {"dp", dp},
                                             {"decode", {"greedy", "beam:2"}}},
                                            {{"suite", "decoder"},
                                             {"model", "tiny"},
                                             {"precision", {"fp32", "bf16"}},
                                             {"batch", 2},
                                             {"src", 5},
                                             {"tgt", 4},
                                             {"tp", 2}},
                                            {{"suite", "encoder"},
                                             {"model", "tiny"},
                                             {"precision", "fp32"},
                                             {"batch", 2},
                                             {"src", 7},
                                             {"tp", 2},
                                             {"dp", 2}}}),
                                  {{"TANDEM_SAMPLE_SECONDS", "0:0.05"}}));
  EXPECT_EQ(f.code, 0) << f.err;
  const auto all = records();
  EXPECT_EQ(all.size(), 11u);
  std::map<std::string, std::string> digest_of_one;
  for (const auto& [name, r] : all) {
    ASSERT_EQ(r.status, Status::kOk) << name << ": " << r.reason.value_or("");
    const auto ranks = static_cast<size_t>(r.c.tp * r.c.dp);
    EXPECT_EQ(r.ranks.size(), ranks == 1 ? 0 : ranks) << name;
    for (const RankRecord& rank : r.ranks) {
      EXPECT_GT(rank.median_us.value_or(0), 0) << name;
      EXPECT_FALSE(rank.device) << "the engine is on the host";
    }
    if (r.c.tp > 1) {
      EXPECT_TRUE(r.check->reference.starts_with("reference on one rank")) << r.check->reference;
      EXPECT_GT(r.ranks[0].wait_us.value_or(0), 0) << "sums take time";
    }
    if (r.c.suite == Suite::kEncoder) continue;
    EXPECT_TRUE(r.check->tokens_equal.value_or(r.c.tp == 1)) << name;
    EXPECT_EQ(r.check->tokens_excused.value_or(0), 0) << name;
  }
  EXPECT_TRUE(ranks_running().empty());
}

/// A port that nobody has: it may be taken before it is used, so whoever fails to listen there tries another.
std::string free_address() {
  return listen_at("127.0.0.1:0").address;
}

// Breaks when mpirun's variables are not enough to run, when other ranks print into the rows, or one waits without end.
TEST_F(RanksTest, AsIfByMpirun) {
  const std::vector<std::string> words = {
      suite("decoder"), "--model", "tiny",        "--tp", "2",        "--batch",  "2", "--src", "6",
      "--tgt",          "4",       "--precision", "fp32", "--engine", "reference"};
  const std::string address = free_address();
  std::vector<pid_t> pids;
  for (int r = 0; r < 2; ++r) {
    pids.push_back(start(words, {{"OMPI_COMM_WORLD_RANK", std::to_string(r)},
                                 {"OMPI_COMM_WORLD_SIZE", "2"},
                                 {"OMPI_COMM_WORLD_LOCAL_RANK", std::to_string(r)},
                                 {"TANDEM_RENDEZVOUS", address}}));
  }
  const Finished first = finish(pids[0]), second = finish(pids[1]);
  EXPECT_EQ(first.code, 0) << first.err;
  EXPECT_NE(first.out.find("tp:2"), std::string::npos) << first.out;
  EXPECT_NE(first.out.find("error "), std::string::npos) << first.out;
  EXPECT_EQ(second.code, 0) << second.err;
  EXPECT_EQ(second.out, "");
}

// Breaks when what contradicts is waited for.
TEST_F(RanksTest, ContradictionsEndAtOnceWithAMessage) {
  const auto one = [&](const Variables& variables, const char* tp) {
    const double start_s = now_s();
    const Finished f = finish(start({suite("decoder"), "--model", "tiny", "--tp", tp, "--batch", "1", "--src",
                                     "4", "--tgt", "2", "--precision", "fp32", "--engine", "reference"},
                                    variables));
    EXPECT_LT(now_s() - start_s, 30);
    EXPECT_EQ(f.code, 2) << f.err;
    return f.err;
  };
  EXPECT_NE(
      one({{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "2"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "0"}},
          "2")
          .find("TANDEM_RENDEZVOUS: is missing beside OMPI_COMM_WORLD_SIZE 2"),
      std::string::npos);
  EXPECT_NE(one({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}, {"TANDEM_RENDEZVOUS", "127.0.0.1:1"}}, "2")
                .find("SLURM_LOCALID: is missing"),
            std::string::npos);
  EXPECT_NE(one({}, "8").find("tp: 8 does not divide"), std::string::npos);
}

// Breaks when a killed rank hangs the run, is not named, costs more than its case, or leaves a process behind.
TEST_F(RanksTest, AKilledRankCostsItsCaseOnly) {
  // 200 samples, which are enough on a CPU, of so many tokens take seconds.
  const json groups = {{{"suite", "generate"},
                        {"model", "tiny"},
                        {"precision", "fp32"},
                        {"batch", {1, 2, 3}},
                        {"src", 4},
                        {"tgt", 48},
                        {"tp", 2}}};
  const pid_t run = start(run_args(groups), {{"TANDEM_SAMPLE_SECONDS", "2:2"}});
  const double until = now_s() + 60;
  const auto times = [](pid_t rank) {  // not a rank of the checks
    return parent_words(rank).find("--attempt") != std::string::npos;
  };
  pid_t victim = 0;
  while (victim == 0 && now_s() < until) {
    ::usleep(5000);
    for (const pid_t rank : ranks_running()) {
      if (!times(rank)) continue;
      ::usleep(500'000);  // what is gone by now was no rank that measures
      if (times(rank)) victim = rank;
      break;
    }
  }
  ASSERT_NE(victim, 0);
  const double killed_s = now_s();
  ASSERT_EQ(::kill(victim, SIGKILL), 0);
  const Finished f = finish(run);
  EXPECT_EQ(f.code, 1) << f.err;
  EXPECT_LT(now_s() - killed_s, 30);
  int lost = 0, ok = 0;
  for (const auto& [name, r] : records()) {
    if (r.status == Status::kRankLost) {
      ++lost;
      EXPECT_EQ(r.reason, "rank 1 lost: it was killed by SIGKILL");
    }
    ok += r.status == Status::kOk ? 1 : 0;
  }
  EXPECT_EQ(lost, 1);
  EXPECT_EQ(ok, 2);
  EXPECT_TRUE(ranks_running().empty());
}

// Breaks when ranks outlive a worker that is killed with no time to say so.
TEST_F(RanksTest, RanksDieWithTheirWorker) {
  const pid_t worker = start({suite("decoder"), "--model", "tiny", "--tp", "4", "--batch", "1", "--src", "4",
                              "--tgt", "2", "--precision", "fp32", "--engine", "reference"},
                             {{"TANDEM_SAMPLE_SECONDS", "20:20"}});
  const double until = now_s() + 60;
  while (ranks_running().size() < 3 && now_s() < until) ::usleep(5000);
  EXPECT_EQ(ranks_running().size(), 3u);
  ::kill(worker, SIGKILL);
  finish(worker);
  while (!ranks_running().empty() && now_s() < until) ::usleep(5000);
  EXPECT_TRUE(ranks_running().empty());
}

}  // namespace
}  // namespace tandem
