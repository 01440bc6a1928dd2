// `tandem profile` from the outside, with fake suite binaries.
#include "harness/driver/session/profiles.h"
#include "harness/driver/testing/driver_fixture.h"

namespace tandem {
namespace {

using testing::DriverTest;
using testing::Finished;
using testing::json;
namespace fs = std::filesystem;

class ProfileCommandTest : public DriverTest {
 protected:
  Finished profile(const std::string& sweep, std::vector<std::string> more = {}) {
    std::vector<std::string> args = run_args(sweep, std::move(more));
    args[0] = "profile";
    return tandem(args);
  }
  /// Lines of profiles.jsonl by batch and pass.
  std::map<std::pair<int, std::string>, json> profiles() {
    std::map<std::string, int> batches;
    for (const Record& r : records()) batches[r.id] = r.c.batch;
    std::map<std::pair<int, std::string>, json> found;
    for_each_line(run_dir() + "/profiles.jsonl", [&](int, const std::string& text) {
      const json line = json::parse(text);
      found[{batches.at(line["id"]), line["pass"]}] = line;
    });
    return found;
  }
};

// Without it a profile has no run to stand beside, or a pass shares a process with a timing.
TEST_F(ProfileCommandTest, MeasuresThenProfilesInFreshProcesses) {
  const Finished f = profile(sweep({1, 2}), {"--passes", "graph,node,counters"});
  EXPECT_EQ(f.code, 0) << f.err;
  EXPECT_EQ(f.out, run_dir() + "\n");
  EXPECT_EQ(records().size(), 2u) << "one worker a case";
  const auto found = profiles();
  EXPECT_EQ(found.size(), 6u);
  const json node = found.at({2, "node"});
  EXPECT_EQ(node["timed_us"], 203);
  EXPECT_NEAR(node["slowdown_timed"].get<double>(), 220.0 / 203 - 1, 1e-9);
  EXPECT_EQ(found.at({1, "counters"})["reason"], "no permission");
  EXPECT_NE(f.err.find("99.75 % attributed"), std::string::npos) << f.err;
  EXPECT_NE(f.err.find("not available"), std::string::npos);
  std::set<std::string> processes;
  for (const std::string& line : log_lines()) {
    if (line.starts_with("profile ")) processes.insert(line);
  }
  EXPECT_EQ(processes.size(), 3u) << "one a pass and group";
  const json benchmark = json::parse(read_file(run_dir() + "/benchmark.json"));
  EXPECT_EQ(benchmark["benchmarks"][0]["gpu_busy_attributed"], 0.9975);
}

// Without it a run that is there is measured again, or its second profile is lost beside the first.
TEST_F(ProfileCommandTest, TakesARunThatIsThere) {
  ASSERT_EQ(tandem(run_args(sweep({3}), {"--workers", "2"})).code, 0);
  const size_t timings = log_lines().size();
  EXPECT_EQ(profile(sweep({3}), {"--workers", "2", "--passes", "node"}).code, 0);
  EXPECT_EQ(log_lines().size(), timings + 1) << "a profile and nothing else";
  EXPECT_EQ(records().size(), 2u);
  EXPECT_EQ(profile(sweep({3}), {"--workers", "2", "--passes", "graph"}).code, 0);
  EXPECT_EQ(profiles().size(), 2u);
}

// Without it a worker that dies while profiled takes the others along, or leaves no trace of its failure.
TEST_F(ProfileCommandTest, AFaultCostsItsOwnProfileOnly) {
  environment_["TANDEM_FAKE_FAULTS"] = "1:node-segv,2:node-incomplete,4:segv";
  const Finished f = profile(sweep({1, 2, 3, 4}), {"--passes", "node"});
  EXPECT_EQ(f.code, 1) << f.err;
  const auto found = profiles();
  ASSERT_EQ(found.size(), 3u) << "what was not measured is not profiled";
  EXPECT_EQ(found.at({1, "node"})["status"], "crashed");
  EXPECT_EQ(found.at({2, "node"})["status"], "incomplete");
  EXPECT_EQ(found.at({3, "node"})["status"], "ok");
  EXPECT_EQ(read_attributed(run_dir()).size(), 1u) << "an incomplete profile gives no number";
}

// Without it a line that readers would refuse gets into the run.
TEST_F(ProfileCommandTest, AForeignLineIsAnError) {
  environment_["TANDEM_FAKE_FAULTS"] = "1:graph-foreign";
  EXPECT_EQ(profile(sweep({1}), {"--passes", "graph"}).code, 1);
  const json line = profiles().at({1, "graph"});
  EXPECT_EQ(line["status"], "error");
  EXPECT_NE(line["reason"].get<std::string>().find("busy_us"), std::string::npos) << line["reason"];
}

// Without it a misspelt pass starts a measurement.
TEST_F(ProfileCommandTest, UnknownPassesAreRefused) {
  const Finished f = profile(sweep({1}), {"--passes", "node,kernel"});
  EXPECT_EQ(f.code, 2);
  EXPECT_NE(f.err.find("--passes: profile: 'kernel' is not one of graph node eager counters energy"),
            std::string::npos)
      << f.err;
  EXPECT_FALSE(fs::exists(run_dir()));
}

}  // namespace
}  // namespace tandem
