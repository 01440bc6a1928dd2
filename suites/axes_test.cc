// The sweep that crosses the axes, run as a user runs it, on the reference engine.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <map>

#include "harness/record/record.h"
#include "harness/sweep/sweep_spec.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

class Axes : public ::testing::Test {
 protected:
  Axes() {
    std::string name = (fs::temp_directory_path() / "tandem_axes_test.XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~Axes() override {
    std::error_code ec;
    fs::remove_all(folder_, ec);
  }
  fs::path folder_;
};

// Breaks when two axes that work alone do not work together, a combination is skipped that can be computed, or a lossy case
// is recorded without its accuracy.
TEST_F(Axes, CrossOnTheReference) {
  ::setenv("TANDEM_SAMPLE_SECONDS", "0:0.01", 1);
  ::setenv("XDG_CACHE_HOME", (folder_ / "cache").c_str(), 1);
  const std::string command =
      fmt::format("{} run suites/axes.json --engine reference --workers 1 --out {} >{} 2>&1", TANDEM_BINARY,
                  (folder_ / "run").string(), (folder_ / "log").string());
  const int status = std::system(command.c_str());
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);

  const SweepCases all = load_sweep("suites/axes.json", {.engine = "reference"});
  EXPECT_TRUE(all.skipped.empty());
  std::map<std::string, int> found;
  for (const Record& r : read_records((folder_ / "run" / "records.jsonl").string(), nullptr)) {
    SCOPED_TRACE(case_name(r.c));
    ++found[case_id(r.c)];
    ASSERT_EQ(r.status, Status::kOk) << r.reason.value_or("");
    EXPECT_TRUE(r.check && r.check->error <= r.check->tolerance);
    EXPECT_EQ(r.accuracy.has_value(), is_lossy(r.c));
  }
  EXPECT_EQ(found.size(), all.cases.size());
  for (const auto& [id, times] : found) EXPECT_EQ(times, 1) << id;
}

}  // namespace
}  // namespace tandem
