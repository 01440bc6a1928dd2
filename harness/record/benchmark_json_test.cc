#include "harness/record/benchmark_json.h"

#include <gtest/gtest.h>

#include <set>

#include "harness/record/environment.h"
#include "harness/record/json_schema.h"
#include "harness/record/testing/full_record.h"

namespace tandem {
namespace {

using nlohmann::json;

// Without it Google Benchmark's tools/compare.py would abort on the file, or drop its geometric mean without
// a word.
TEST(BenchmarkJson, IsWhatComparePyReads) {
  Record ok = testing::full_record();
  Record other = ok;
  other.worker = 3;
  Record sparse = make_record(Case{}, 0, 1);
  sparse.status = Status::kOk;
  sparse.summary = summarize({5});
  Record failed = make_record(Case{}, 1, 2);
  failed.status = Status::kCrashed;
  failed.reason = "killed by SIGSEGV";
  const json j = benchmark_json(capture_environment({}), {ok, other, sparse, failed});

  EXPECT_EQ(j["context"]["json_schema_version"], 1);
  ASSERT_EQ(j["benchmarks"].size(), 3u);
  for (const json& entry : j["benchmarks"]) {
    EXPECT_EQ(entry["run_type"], "iteration");
    for (const char* key : {"name", "run_name", "time_unit"}) EXPECT_TRUE(entry[key].is_string()) << key;
    for (const char* key : {"real_time", "cpu_time"}) EXPECT_GT(entry[key].get<double>(), 0) << key;
    EXPECT_FALSE(entry.contains("error_occurred"));
  }
  const json& entry = j["benchmarks"][0];
  EXPECT_EQ(entry["repetitions"], 2);
  EXPECT_EQ(entry["repetition_index"], 2);
  EXPECT_EQ(entry["iterations"], 6);
  EXPECT_EQ(entry["floor_ratio"], 2.5);
  EXPECT_EQ(entry["peak_device_bytes"], 1 << 20);
  EXPECT_EQ(schema_error(record_schema(), entry["tandem"]), std::nullopt);
  EXPECT_EQ(j["benchmarks"][1]["family_index"], entry["family_index"]);
  EXPECT_NE(j["benchmarks"][2]["family_index"], entry["family_index"]);
  for (const char* key : {"floor_us", "floor_ratio", "step_us", "bytes", "peak_device_bytes"}) {
    EXPECT_FALSE(j["benchmarks"][2].contains(key)) << key << ": not known, so not there";
  }
  ASSERT_EQ(j["failures"].size(), 1u);
  EXPECT_EQ(j["failures"][0]["status"], "crashed");
  EXPECT_EQ(j["failures"][0]["reason"], "killed by SIGSEGV");
  EXPECT_FALSE(nonfinite_field(j));
  EXPECT_EQ(j.dump().find("NaN"), std::string::npos);
}

}  // namespace
}  // namespace tandem
