// The sweep that crosses the axes, run as a user runs it, on the reference engine.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "harness/driver/session/ceilings_store.h"
#include "harness/record/record.h"
#include "harness/sweep/files.h"
#include "harness/sweep/sweep_spec.h"
#include "suites/engines.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

class Axes : public ::testing::Test {
 protected:
  Axes() {
    std::string name = (fs::temp_directory_path() / "tandem_axes_test.XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
    ::setenv("TANDEM_SAMPLE_SECONDS", "0:0.01", 1);
    ::setenv("XDG_CACHE_HOME", (folder_ / "cache").c_str(), 1);
  }
  ~Axes() override {
    std::error_code ec;
    fs::remove_all(folder_, ec);
  }
  /// Runs `tandem` with its output in folder_/out; gives its exit code.
  int tandem(const std::string& arguments) const {
    const std::string command = fmt::format("{} {} >{} 2>{}", TANDEM_BINARY, arguments,
                                            (folder_ / "out").string(), (folder_ / "err").string());
    const int status = std::system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  /// Rates of this CPU that nobody measured, where a run looks for them: memory's far from the cache's.
  static void store_ceilings() {
    Ceilings ceilings;
    ceilings.machine = machine_label(std::nullopt);
    ceilings.measured_at = "2026-01-31T12:00:00Z";
    ceilings.read_gbs = ceilings.copy_gbs = 10;
    ceilings.l2_gbs = 80;
    ceilings.burst_tflops.fill(1000);
    ceilings.cache_bytes = host_cache_bytes();
    const fs::path path = ceilings_path(std::nullopt);
    fs::create_directories(path.parent_path());
    std::ofstream(path) << nlohmann::json(ceilings);
  }

  /// floor_us that `tandem list` shows of the cases of a sweep, by id.
  std::map<std::string, nlohmann::json> listed_floors(const std::string& sweep) const {
    EXPECT_EQ(tandem("list " + sweep + " --engine reference --json"), 0);
    std::map<std::string, nlohmann::json> listed;
    for (const auto& row : nlohmann::json::parse(read_file(folder_ / "out")))
      listed[row["id"]] = row["floor_us"];
    return listed;
  }
  /// The records of a run of the sweep, one worker a case.
  std::vector<Record> measured(const std::string& sweep) const {
    EXPECT_EQ(tandem(fmt::format("run {} --engine reference --workers 1 --out {}", sweep,
                                 (folder_ / "run").string())),
              0)
        << read_file(folder_ / "err");
    return read_records((folder_ / "run" / "records.jsonl").string(), nullptr);
  }

  fs::path folder_;
};

// Breaks when two axes that work alone do not work together, a combination is skipped that can be computed, or a lossy case
// is recorded without its accuracy; or when a list shows another floor of a case than its record.
TEST_F(Axes, CrossOnTheReference) {
  store_ceilings();
  const auto listed = listed_floors("suites/axes.json");

  const SweepCases all = load_sweep("suites/axes.json", {.engine = "reference"});
  EXPECT_TRUE(all.skipped.empty());
  std::map<std::string, int> found;
  for (const Record& r : measured("suites/axes.json")) {
    SCOPED_TRACE(case_name(r.c));
    ++found[case_id(r.c)];
    ASSERT_EQ(r.status, Status::kOk) << r.reason.value_or("");
    EXPECT_TRUE(r.check && r.check->error <= r.check->tolerance);
    EXPECT_EQ(r.accuracy.has_value(), is_lossy(r.c));
    ASSERT_TRUE(r.floor.floor_us);
    ASSERT_TRUE(listed.at(case_id(r.c)).is_number());
    EXPECT_DOUBLE_EQ(listed.at(case_id(r.c)).get<double>(), *r.floor.floor_us);
  }
  EXPECT_EQ(found.size(), all.cases.size());
  for (const auto& [id, times] : found) EXPECT_EQ(times, 1) << id;
}

// Breaks when a list counts a fraction of the weights where a whole number of them goes, or takes nothing for what a threshold
// removes, which nobody knows before the weights are there. A fraction of 0.3 ends just below where a bitmap pays.
TEST_F(Axes, ListsKnowWhatPruningRemoves) {
  store_ceilings();
  const std::string sweep = folder_ / "pruned.json";
  std::ofstream(sweep)
      << R"({"groups": [{"suite": "decoder", "model": "tiny", "src": 5, "tgt": 5, "precision": "bf16",
    "sparsity": ["unstructured:0.3", "layers:0.5+unstructured:0.7", "2:4+heads:0.5", "threshold:0.05"]}]})";
  const auto listed = listed_floors(sweep);
  int floors = 0;
  for (const Record& r : measured(sweep)) {
    SCOPED_TRACE(case_name(r.c));
    ASSERT_TRUE(r.floor.floor_us);
    const nlohmann::json& floor = listed.at(case_id(r.c));
    if (r.c.sparsity == "threshold:0.05") {
      EXPECT_TRUE(floor.is_null());
      continue;
    }
    ++floors;
    ASSERT_TRUE(floor.is_number());
    EXPECT_DOUBLE_EQ(floor.get<double>(), *r.floor.floor_us);
  }
  EXPECT_EQ(floors, 3);
}

}  // namespace
}  // namespace tandem
