// A suite run by hand: what reaches Google Benchmark, and what does not.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "suites/testing/run_binary.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using testing::Ran;

std::string suite(const char* name) {
  return (fs::path(TANDEM_BINARY).parent_path() / name).string();
}
Ran decoder(const std::string& more) {
  return testing::run_binary(
      suite("suite_decoder"),
      "--model tiny --batch 1,2 --src 8 --tgt 4 --precision fp32 --engine reference " + more);
}

// Breaks when a flag that the library would act on passes through: the suite never ends, or measures everything three times.
TEST(ByHand, FlagsOfTheLibraryAreRefusedWhateverWayTheyCome) {
  for (const char* flag :
       {"min_time=1", "min_warmup_time=1", "repetitions=3", "enable_random_interleaving=true",
        "report_aggregates_only", "perf_counters=x", "dry_run"}) {
    const Ran ran = decoder(fmt::format("--benchmark_{}", flag));
    EXPECT_EQ(ran.code, 2) << flag;
    EXPECT_NE(ran.errors.find("--benchmark_"), std::string::npos) << ran.errors;
    EXPECT_NE(ran.errors.find("not for this suite"), std::string::npos) << ran.errors;
  }
  for (const char* variable : {"REPETITIONS=3", "MIN_WARMUP_TIME=1", "FILTER=x"}) {
    const Ran ran = testing::run_binary(fmt::format("BENCHMARK_{} {}", variable, suite("suite_decoder")),
                                        "--model tiny --src 8 --tgt 4 --precision fp32 --engine reference");
    EXPECT_EQ(ran.code, 2) << variable;
    EXPECT_NE(ran.errors.find("is set in the environment"), std::string::npos) << ran.errors;
  }
}

// Breaks when a filter that keeps nothing ends well, one that is no expression is taken for one that keeps nothing, or a name
// out of our own JSON does not find its case.
TEST(ByHand, AFilterKeepsWhatItNames) {
  const Ran nothing = decoder("--benchmark_filter=nothing");
  EXPECT_EQ(nothing.code, 2);
  EXPECT_NE(nothing.errors.find("--benchmark_filter: 'nothing' matches none of the 2 cases"),
            std::string::npos)
      << nothing.errors;
  const Ran broken = decoder("'--benchmark_filter=('");
  EXPECT_EQ(broken.code, 2);
  EXPECT_NE(broken.errors.find("--benchmark_filter: '(' is not a regular expression"), std::string::npos)
      << broken.errors;
  const Ran all = decoder("--benchmark_format=json");
  std::string text;
  for (const std::string& line : all.lines) text += line + "\n";
  const auto benchmarks = nlohmann::json::parse(text)["benchmarks"];
  ASSERT_EQ(benchmarks.size(), 2u);
  const auto name = benchmarks[1]["name"].get<std::string>();
  const Ran one = decoder("'--benchmark_filter=^" + name + "$'");
  EXPECT_EQ(one.code, 0) << one.errors;
  ASSERT_EQ(one.lines.size(), 1u);
  EXPECT_TRUE(one.lines[0].starts_with(name)) << one.lines[0];
  EXPECT_EQ(decoder("--benchmark_filter=-batch:1").lines.size(), 1u) << "all others";
}

// Breaks when a path of someone else's cannot be written: with a comma in it, without a slash, or with bytes that no record
// could hold.
TEST(ByHand, PathsOfModels) {
  const testing::TestFolder folder;
  const auto fixture = testing::checkpoint_fixture("t5");
  testing::write_checkpoint(folder.path() / "one,two", fixture);
  const std::string rest = " --batch 1 --src 8 --precision fp32 --engine reference --benchmark_list_tests";
  const Ran comma =
      testing::run_binary(suite("suite_encoder"), "--model " + (folder.path() / "one,two").string() + rest);
  EXPECT_EQ(comma.code, 0) << comma.errors;
  EXPECT_EQ(comma.lines.size(), 1u);
  testing::write_checkpoint(folder.path() / "here", fixture);
  const Ran bare = testing::run_binary("cd " + folder.path().string() + " && " + suite("suite_encoder"),
                                       "--model here" + rest);
  EXPECT_EQ(bare.code, 0) << bare.errors;
  const Ran bytes = testing::run_binary(suite("suite_encoder"), "--model ./m\xFFx" + rest);
  EXPECT_EQ(bytes.code, 2);
  EXPECT_NE(bytes.errors.find("argument 2, './m\\xffx': not UTF-8"), std::string::npos) << bytes.errors;
  const Ran out = testing::run_binary(TANDEM_BINARY, "run suites/smoke.json --out /tmp/r\xFFx");
  EXPECT_EQ(out.code, 2);
  EXPECT_NE(out.errors.find("not UTF-8"), std::string::npos) << out.errors;
}

// Breaks when floors stand on rates that contradict themselves: these made floors 80 times over the measurement.
TEST(ByHand, CeilingsThatContradictThemselvesAreRefused) {
  const testing::TestFolder folder;
  const std::string file = (folder.path() / "ceilings.json").string();
  testing::write_text(file, R"({"machine": "CPU", "read_gbs": 16.956, "copy_gbs": 16.816, "l2_gbs": 0.0471,
                                "burst_tflops": {"fp32": 0.234}, "sustained_tflops": {"fp32": 0.0122}})");
  const Ran bad = decoder("--ceilings " + file);
  EXPECT_EQ(bad.code, 2);
  EXPECT_NE(bad.errors.find("they contradict themselves: the cache reads 0.0471 GB/s, memory 16.96"),
            std::string::npos)
      << bad.errors;
  // A rate that no CPU has: the case is faster than its floor, and its row says what that means.
  testing::write_text(
      file, R"({"machine": "CPU", "read_gbs": 1e-6, "copy_gbs": 1e-6, "burst_tflops": {"fp32": 1e-6}})");
  const Ran beaten = decoder("--ceilings " + file);
  EXPECT_EQ(beaten.code, 0) << beaten.errors;
  ASSERT_EQ(beaten.lines.size(), 2u);
  EXPECT_NE(beaten.lines[0].find("FASTER THAN ITS FLOOR: the ceilings are in question"), std::string::npos);
}

// Breaks when a machine that cannot profile measures every case before it says so, or says so once a case.
TEST(ByHand, ProfilesAreRefusedOnce) {
  const testing::TestFolder folder;
  testing::write_text(
      folder.path() / "p.json",
      R"({"groups": [{"suite": "decoder", "model": "tiny", "batch": [1, 2], "src": 8, "tgt": 4, "precision": "fp32"}]})");
  const std::string out = (folder.path() / "run").string();
  const Ran ran = testing::run_binary(
      TANDEM_BINARY, "profile " + (folder.path() / "p.json").string() + " --engine reference --out " + out);
  EXPECT_EQ(ran.code, 3) << ran.errors;
  EXPECT_EQ(ran.errors,
            "tandem: profile: nothing can be profiled: engine 'reference' runs on the CPU; profiles are of a "
            "card\n");
  EXPECT_FALSE(fs::exists(out));
}

}  // namespace
}  // namespace tandem
