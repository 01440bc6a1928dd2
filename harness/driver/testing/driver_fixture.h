// What the driver's tests share: a folder with fake suite binaries, sweeps and runs; and a way to start `tandem` in it.
#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "harness/record/record.h"
#include "harness/sweep/files.h"

namespace tandem::testing {

namespace fs = std::filesystem;
using nlohmann::json;

struct Finished {
  int code = -1;  ///< exit code; -1: killed by `signal`
  int signal = 0;
  std::string out, err;
};

/// `text` without libgcov's lines: in a build that counts coverage a kill may cut a file of counts, and every later process says so.
inline std::string without_gcov(const std::string& text) {
  std::string kept;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("libgcov ")) continue;
    kept += line;
    if (!in.eof()) kept += '\n';  // the last line as it was
  }
  return kept;
}

class DriverTest : public ::testing::Test {
 protected:
  DriverTest() {
    std::string name = (fs::temp_directory_path() / "tandem_driver_test.XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
    fs::create_directories(bin());
    for (const char* suite : {"encoder", "decoder", "generate", "limits"}) {
      fs::create_symlink(TANDEM_FAKE_SUITE, bin() / fmt::format("suite_{}", suite));
    }
    environment_ = {
        {"XDG_CACHE_HOME", folder_ / "cache"}, {"TANDEM_FAKE_LOG", log()}, {"CUDA_VISIBLE_DEVICES", ""}};
  }
  ~DriverTest() override {
    std::error_code ec;
    fs::remove_all(folder_, ec);
  }

  fs::path bin() const { return folder_ / "bin"; }
  fs::path log() const { return folder_ / "log"; }
  std::string run_dir() const { return folder_ / "run"; }

  /// A sweep of decoder cases of these batches, in folder_.
  std::string sweep(const std::vector<int>& batches, json extra = json::object(),
                    const std::string& name = "s.json") {
    json group = {{"suite", "decoder"}, {"model", "tiny"}, {"precision", "fp32"},
                  {"src", 4},           {"tgt", 4},        {"batch", batches}};
    group.update(extra);
    std::ofstream(folder_ / name) << json{{"groups", {group}}};
    return folder_ / name;
  }

  /// Starts `tandem`; wait_for brings its end. `err`: what stderr is, where it is no file.
  pid_t start(const std::vector<std::string>& args, std::optional<rlim_t> file_limit = {}, int err = -1) {
    std::vector<std::string> words = {TANDEM_BINARY};
    words.insert(words.end(), args.begin(), args.end());
    std::vector<char*> argv;
    for (std::string& w : words) argv.push_back(w.data());
    argv.push_back(nullptr);
    const pid_t pid = ::fork();
    if (pid == 0) {
      for (const auto& [key, value] : environment_) ::setenv(key.c_str(), value.c_str(), 1);
      ::dup2(::open((folder_ / "out.txt").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), 1);
      ::dup2(err >= 0 ? err : ::open((folder_ / "err.txt").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), 2);
      if (file_limit) {
        const rlimit limit{*file_limit, *file_limit};
        ::setrlimit(RLIMIT_FSIZE, &limit);
      }
      ::execv(argv[0], argv.data());
      ::_exit(126);
    }
    return pid;
  }

  Finished wait_for(pid_t pid) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    Finished f;
    if (WIFEXITED(status)) f.code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) f.signal = WTERMSIG(status);
    f.out = read_file(folder_ / "out.txt");
    f.err = without_gcov(read_file(folder_ / "err.txt"));
    return f;
  }

  Finished tandem(const std::vector<std::string>& args) { return wait_for(start(args)); }

  /// The same with stderr on a terminal of so many columns: `err` is all that was written there, in pieces with the second at
  /// which each came.
  Finished on_terminal(const std::vector<std::string>& args, unsigned short columns,
                       std::vector<std::pair<double, std::string>>* pieces = nullptr) {
    int ours = -1, theirs = -1;
    const winsize size = {.ws_row = 50, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    EXPECT_EQ(::openpty(&ours, &theirs, nullptr, nullptr, &size), 0);
    ::fcntl(ours, F_SETFD, FD_CLOEXEC);
    ::fcntl(theirs, F_SETFD, FD_CLOEXEC);
    const auto began = std::chrono::steady_clock::now();
    const pid_t pid = start(args, {}, theirs);
    ::close(theirs);
    std::string said;
    char block[4096];
    for (ssize_t n; (n = ::read(ours, block, sizeof(block))) > 0;) {  // EIO once nobody holds the other end
      said.append(block, static_cast<size_t>(n));
      const std::chrono::duration<double> at = std::chrono::steady_clock::now() - began;
      if (pieces != nullptr) pieces->emplace_back(at.count(), std::string(block, static_cast<size_t>(n)));
    }
    ::close(ours);
    std::ofstream(folder_ / "err.txt") << said;
    return wait_for(pid);
  }

  /// `tandem run SWEEP --out run_dir()` with the fake suites on the reference engine.
  std::vector<std::string> run_args(const std::string& sweep, std::vector<std::string> more = {}) const {
    std::vector<std::string> args = {"run",      sweep,       "--out",     run_dir(),
                                     "--engine", "reference", "--bin-dir", bin()};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }

  std::vector<Record> records(const std::string& below = "") const {
    return read_records(run_dir() + below + "/records.jsonl", nullptr);
  }

  std::map<std::pair<int, int>, Record> by_batch_and_worker() const {
    std::map<std::pair<int, int>, Record> found;
    for (const Record& r : records()) {
      EXPECT_TRUE(found.emplace(std::pair(r.c.batch, r.worker), r).second) << "two records of one key";
    }
    return found;
  }

  std::vector<std::string> log_lines() const {
    std::vector<std::string> lines;
    std::ifstream in(log());
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }

  /// Are all workers in the log gone?
  bool workers_gone() const {
    for (const std::string& line : log_lines()) {
      std::istringstream words(line);
      std::string id;
      int worker = 0, attempt = 0;
      pid_t pid = 0;
      if (!(words >> id >> worker >> attempt >> pid)) continue;
      // A zombie has been killed: its parent, which died first, no longer reaps it.
      std::ifstream stat(fmt::format("/proc/{}/stat", pid));
      std::string text;
      std::getline(stat, text);
      const size_t after = text.rfind(')');
      if (after != std::string::npos && text.substr(after + 2, 1) != "Z" &&
          text.find("suite_") != std::string::npos) {
        return false;
      }
    }
    return true;
  }

  bool soon(const std::function<bool()>& condition) const {
    for (int i = 0; i < 500; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  fs::path folder_;
  std::map<std::string, std::string> environment_;
};

}  // namespace tandem::testing
