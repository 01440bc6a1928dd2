// Profiles of the engine on a card: every kernel has a phase, in graphs and without, and a trace's times are those of the events.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "harness/run/worker.h"
#include "suites/engines.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

class ProfileGpuTest : public testing::Test {
 protected:
  void SetUp() override {
    // Not asked of CUDA itself: the profiler must be there before it.
    if (::access("/dev/nvidiactl", F_OK) != 0 && ::access("/dev/dxg", F_OK) != 0)
      GTEST_SKIP() << "no CUDA device";
    dir_ = fs::temp_directory_path() / fmt::format("tandem-profile-gpu.{}", ::getpid());
    fs::create_directories(dir_);
  }
  void TearDown() override {
    std::error_code ec;
    fs::remove_all(dir_, ec);
  }

  static Case pass_of(Suite suite, const char* model, int batch) {
    Case c;
    c.suite = suite;
    c.model = model;
    c.batch = batch;
    c.src = 64;
    c.tgt = 8;
    c.engine = "cuda";
    return c;
  }

  /// Skips where the tracer cannot work; otherwise the pass must be whole and attributed.
  void check(ProfilePass pass) {
    const EngineRegistry registry = engine_registry();
    WorkerOptions options;
    options.run_dir = dir_;
    Worker worker(registry, options);
    for (const Suite suite : kModelSuites) {
      for (const int batch : {1, 32}) {
        const Case c = pass_of(suite, "transformer-base", batch);
        const nlohmann::json line = worker.profile_case(c, pass);
        if (line["status"] == "unavailable") GTEST_SKIP() << line["reason"];
        ASSERT_EQ(line["status"], "ok") << line.dump();
        EXPECT_EQ(line["missing"], 0);
        const double event = line["event_us"];
        const double sum = line["busy_us"].get<double>() + line["gaps_us"].get<double>();
        EXPECT_NEAR(sum, event, std::max(5.0, 0.05 * event)) << case_name(c);
        if (pass != ProfilePass::kGraph) {
          EXPECT_GE(line["gpu_busy_attributed"].get<double>(), 0.995) << line["orphans"].dump();
        }
        EXPECT_TRUE(fs::exists(dir_ / line["trace"].get<std::string>()));
      }
    }
  }

  fs::path dir_;
};

// Breaks when a kernel of a graph has no phase, or a replay leaves fewer records than its graph has nodes.
TEST_F(ProfileGpuTest, GraphsAreAttributedNodeByNode) {
  check(ProfilePass::kNode);
}

// Breaks when a kernel that is launched by itself has no phase.
TEST_F(ProfileGpuTest, LaunchesAreAttributed) {
  check(ProfilePass::kEager);
}

// Breaks when the counters of a generation end the process: it has more phases than a pass of counters has room for.
TEST_F(ProfileGpuTest, AGenerationIsCounted) {
  const EngineRegistry registry = engine_registry();
  WorkerOptions options;
  options.run_dir = dir_;
  Worker worker(registry, options);
  Case c = pass_of(Suite::kGenerate, "transformer-base", 2);
  c.tgt = 64;
  const nlohmann::json line = worker.profile_case(c, ProfilePass::kCounters);
  if (line["status"] == "unavailable") GTEST_SKIP() << line["reason"];
  ASSERT_EQ(line["status"], "ok") << line.dump();
  int ranges = 0, replays = 0;
  for (const auto& row : line["ranges"])
    (row["range"] == "replay" ? replays : ranges) += row["ranges"].get<int>();
  EXPECT_GT(ranges, 2048) << "the case needs more parts than one";
  EXPECT_EQ(replays, 1);
}

// Breaks when whole graphs cannot be traced: CUPTI 13.0 dies when it is asked late.
TEST_F(ProfileGpuTest, WholeGraphsAreTraced) {
  check(ProfilePass::kGraph);
}

}  // namespace
}  // namespace tandem
