#include "harness/record/record.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <random>

#include "harness/base/error.h"
#include "harness/base/testing/test_seed.h"
#include "harness/record/environment.h"
#include "harness/record/json_schema.h"
#include "harness/record/testing/full_record.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class RecordFile : public ::testing::Test {
 protected:
  RecordFile() {
    std::string name = (fs::temp_directory_path() / "tandem_record_test.XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
    path_ = folder_ / "records.jsonl";
  }
  ~RecordFile() override { fs::remove_all(folder_); }
  fs::path folder_;
  std::string path_;
};

template <typename E = UsageError>
std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  return "(nothing thrown)";
}

// Without it the writer and the committed schema drift apart, and no reader can rely on either.
TEST(Record, WhatIsWrittenFollowsTheSchema) {
  for (const Record& r : {testing::full_record(), make_record(Case{}, 0, 1)}) {
    const json j = record_to_json(r);
    EXPECT_EQ(schema_error(record_schema(), j), std::nullopt);
    const json committed = json::parse(std::ifstream("harness/record/record.schema.json"));
    EXPECT_EQ(committed, record_schema());
    for (const auto& [key, value] : j.items()) EXPECT_TRUE(committed["properties"].contains(key)) << key;
  }
}

// Without it a field that reading forgets is lost when a run is resumed.
TEST(Record, RoundTrips) {
  const json j = record_to_json(testing::full_record());
  EXPECT_EQ(record_to_json(record_from_json(j)), j);
  EXPECT_EQ(record_to_json(record_from_json(json::parse(j.dump()))), j);
  const json empty = record_to_json(make_record(Case{}, 3, 2));
  EXPECT_EQ(record_to_json(record_from_json(empty)), empty);
  EXPECT_TRUE(empty["summary"].is_null() && empty["floor"].is_null() && empty["memory"].is_null());
}

// Without it a missing number could be written as NaN, which no strict JSON reader takes.
TEST(Record, ANumberThatIsNotFiniteIsRefused) {
  Record r = testing::full_record();
  r.floor.ratio = NAN;
  EXPECT_NE(error_of<Error>([&] { record_to_json(r); }).find("floor.ratio is not a finite number"),
            std::string::npos);
  r = testing::full_record();
  r.clock_blocks[0].power_w = INFINITY;
  EXPECT_THROW(record_to_json(r), Error);
}

// Without it a broken or foreign record would be read as a good one. Each row breaks one keyword of the
// schema.
TEST(Record, WhatTheSchemaDoesNotAllowIsRefusedAndNamed) {
  const json good = record_to_json(testing::full_record());
  const std::tuple<const char*, json, const char*> bad[] = {
      {"/schema", "2.0.0", "schema: version 2.0.0 is not understood; this build reads 1.x"},
      {"/schema", "1.x", "schema: \"1.x\" does not match"},
      {"/id", "0123", "id: \"0123\" does not match"},
      {"/suite", "encode", "suite: \"encode\" is not one of"},
      {"/status", "fine", "status: \"fine\" is not one of"},
      {"/worker", -1, "worker: -1 is under the minimum of 0"},
      {"/worker", 0.5, "worker: 0.5 is not of type \"integer\""},
      {"/attempt", 0, "attempt: 0 is under the minimum of 1"},
      {"/case/batch", 0, "case.batch: 0 is under the minimum of 1"},
      {"/case/precision", "fp33", "precision: 'fp33' is not allowed"},
      {"/summary/median_us", 0, "summary.median_us: 0 is not more than 0"},
      {"/summary/ci95_us", {1.0}, "summary.ci95_us: 1 items, minItems is 2"},
      {"/summary/ci95_us", {1.0, 2.0, 3.0}, "summary.ci95_us: 3 items, maxItems is 2"},
      {"/samples/sha256", "abc", "samples.sha256: \"abc\" does not match"},
      {"/floor/bound", "latency", "floor.bound: \"latency\" is not one of"},
      {"/cost/phases/0/side", "middle", "cost.phases[0].side: \"middle\" is not one of"},
      {"/metrics/step_us", -1, "metrics.step_us: -1 is not more than 0"},
      {"/metrics/sm_cycles", 0, "metrics.sm_cycles: 0 is under the minimum of 1"},
      {"/planted/amount", -1, "planted.amount: -1 is under the minimum of 0"},
      {"/clocks/state", "sustained", "clocks.state: \"sustained\" is not one of"},
      {"/reason", 7, "reason: 7 is not of type"},
      {"/wall_s", -0.1, "wall_s: -0.1 is under the minimum of 0"},
      {"/memory/fraction_kept", 1.5, "memory.fraction_kept: 1.5 is over the maximum of 1"},
      {"/memory/fraction_kept", 0, "memory.fraction_kept: 0 is not more than 0"},
      {"/accuracy/logits", 0.1, "accuracy.logits: is not a known field"},
      {"/accuracy/kl", "low", "accuracy.kl: \"low\" is not of type"},
      {"/accuracy/tokens_agree", 99, "accuracy.tokens_agree: 99 is over the maximum of 1"},
      {"/accuracy/free_tokens_agree", 99, "accuracy.free_tokens_agree: 99 is over the maximum of 1"},
      {"/accuracy/tokens", 0, "accuracy.tokens: 0 is under the minimum of 1"},
      {"/accuracy/teacher_forced", nullptr, "accuracy.teacher_forced: null is not of type"},
      {"/accuracy/against", "dense bf16", "accuracy.against: \"dense bf16\" is not one of"},
      {"/accuracy", json::object(), "accuracy.relative_error: missing"},
      {"/ranks/0/rank", -1, "ranks[0].rank: -1 is under the minimum of 0"},
      {"/ranks/0/wait", 1, "ranks[0].wait: is not a known field"},
      {"/ranks/0", json::object(), "ranks[0].rank: missing"},
  };
  for (const auto& [at, value, message] : bad) {
    json j = good;
    j[json::json_pointer(at)] = value;
    const std::string error = error_of([&] { record_from_json(j); });
    EXPECT_NE(error.find(message), std::string::npos) << at << ": " << error;
  }
  for (const auto& field : record_schema()["required"]) {
    json j = good;
    j.erase(field.get<std::string>());
    EXPECT_EQ(error_of([&] { record_from_json(j); }), field.get<std::string>() + ": missing");
  }
  json newer = good;
  newer["schema"] = "1.9.0";
  newer["something_new"] = {1, 2};
  EXPECT_NO_THROW(record_from_json(newer)) << "a newer minor version may add fields";
}

// Without it a keyword added to a schema would be passed over in silence.
TEST(JsonSchema, AKeywordThatIsNotUnderstoodThrows) {
  EXPECT_THROW(schema_error({{"multipleOf", 3}}, 1), Error);
  EXPECT_THROW(schema_error({{"additionalProperties", {{"type", "string"}}}}, json::object()), Error);
}

// Without it the environment and its committed schema drift apart.
TEST(Environment, FollowsTheSchema) {
  const json committed = json::parse(std::ifstream("harness/record/environment.schema.json"));
  EXPECT_EQ(committed, environment_schema());
  CardInfo card;
  card.name = "NVIDIA H200";
  card.uuid = "GPU-1";
  card.ecc = true;
  card.nvlinks = {0, 1};
  card.driver = "580.1";
  CardInfo other = card;
  other.index = 1;
  other.name = "NVIDIA L40S";
  other.uuid = "GPU-2";
  const json j = capture_environment({.command = {"tandem", "run"},
                                      .sweep = SweepRef{"smoke.json", std::string(64, 'a'), 2},
                                      .binaries = {{"suite_decoder", std::string(64, 'b')}},
                                      .cards = std::vector<CardInfo>{card, other},
                                      .device = other});
  EXPECT_EQ(schema_error(environment_schema(), j), std::nullopt);
  EXPECT_EQ(j["software"]["driver"], "580.1");
  EXPECT_EQ(j["cards"][0]["ecc"], true);
  EXPECT_TRUE(j["cards"][0]["mig"].is_null());
  EXPECT_EQ(j["device"], "GPU-2") << "not the first card of the machine";
  EXPECT_EQ(j["cards"][1]["index"], 1);
  EXPECT_TRUE(j["ceilings"].is_null());
  const json bare = capture_environment({});
  EXPECT_EQ(schema_error(environment_schema(), bare), std::nullopt);
  EXPECT_FALSE(bare["command"].empty());
  EXPECT_TRUE(bare["device"].is_null());
  EXPECT_NE(bare["run_id"], j["run_id"]);
  EXPECT_FALSE(nonfinite_field(bare));
}

// Without it secrets in the environment would end up in committed baselines.
TEST(Environment, OnlyAllowedVariablesAreTaken) {
  std::string a = "CUDA_VISIBLE_DEVICES=1", b = "API_TOKEN=secret", c = "NCCL_DEBUG=INFO", d = "HOME=/root",
              e = "broken";
  char* environ_like[] = {a.data(), b.data(), c.data(), d.data(), e.data(), nullptr};
  EXPECT_EQ(allowed_environment(environ_like),
            (std::map<std::string, std::string>{{"CUDA_VISIBLE_DEVICES", "1"}, {"NCCL_DEBUG", "INFO"}}));
}

// Without it a summary could be off by a rank, or claim an interval that 49 samples cannot give.
TEST(Summary, PublishedRanksAndQuantiles) {
  std::vector<float> s;
  for (int i = 1; i <= 100; ++i) s.push_back(static_cast<float>(i));
  std::shuffle(s.begin(), s.end(), std::mt19937_64(test_seed()));
  Summary r = summarize(s);
  EXPECT_EQ(r.n, 100);
  EXPECT_DOUBLE_EQ(r.median_us, 50.5);
  EXPECT_DOUBLE_EQ(r.q1_us, 25.75);
  EXPECT_DOUBLE_EQ(r.q3_us, 75.25);
  EXPECT_DOUBLE_EQ(r.min_us, 1);
  EXPECT_NEAR(*r.p95_us, 95.05, 1e-9);
  EXPECT_NEAR(*r.p99_us, 99.01, 1e-9);
  EXPECT_TRUE(r.ci95_lo_us) << "how: stats_test";
  r = summarize({3, 1, 2, 5, 4});
  EXPECT_FALSE(r.ci95_lo_us || r.p95_us || r.p99_us);
  EXPECT_EQ(r.median_us, 3);
  EXPECT_FALSE(summarize(std::vector<float>(19, 1)).p95_us);
  EXPECT_TRUE(summarize(std::vector<float>(20, 1)).p95_us);
  EXPECT_FALSE(summarize(std::vector<float>(99, 1)).p99_us);
  EXPECT_FALSE(summarize(std::vector<float>(49, 2)).ci95_lo_us);
  // In the order taken: sorted first, the blocks' medians would be 7 to 42 whatever the order was.
  s.clear();
  for (int i = 0; i < 50; ++i) s.push_back(static_cast<float>(1 + i % 5));
  EXPECT_EQ(summarize(s).ci95_lo_us, 3);
  EXPECT_EQ(summarize(s).ci95_hi_us, 3);
  for (const float bad : {0.0f, -1.0f, NAN, INFINITY}) EXPECT_THROW(summarize({1, bad}), Error);
  EXPECT_THROW(summarize({}), Error);
}

// Without it a kill in the middle of a line would corrupt the run, or cost the records before it.
TEST_F(RecordFile, AKillAtAnyByteLeavesTheWholeRecords) {
  std::string whole;
  {
    RecordWriter writer(path_);
    for (int worker = 0; worker < 3; ++worker) writer.append(make_record(Case{}, worker, 1));
  }
  whole = read_file(path_);
  std::string warning;
  EXPECT_EQ(read_records(path_, &warning).size(), 3u);
  EXPECT_EQ(warning, "");
  for (size_t bytes = 0; bytes < whole.size(); bytes += 37) {
    std::ofstream(path_, std::ios::trunc) << whole.substr(0, bytes);
    const auto lines = static_cast<size_t>(std::count(whole.begin(), whole.begin() + bytes, '\n'));
    EXPECT_EQ(read_records(path_, &warning).size(), lines);
    EXPECT_EQ(warning.empty(), bytes == 0 || whole[bytes - 1] == '\n');
    RecordWriter(path_).append(make_record(Case{}, 9, 1));
    const auto again = read_records(path_, &warning);
    ASSERT_EQ(again.size(), lines + 1);
    EXPECT_EQ(again.back().worker, 9);
    EXPECT_EQ(warning, "");
  }
}

// Without it a fast lossy form would stand in a report with nothing said of what it costs.
TEST_F(RecordFile, ALossyCaseThatIsOkStatesItsAccuracy) {
  Record r = testing::full_record();
  for (const auto& [precision, kv, sparsity] : {std::tuple("bf16", "fp8", "dense"),
                                                {"fp8", "same", "dense"},
                                                {"w4a16", "same", "dense"},
                                                {"bf16", "same", "2:4"}}) {
    r.c.precision = parse_precision(precision);
    r.c.kv = kv;
    r.c.sparsity = sparsity;
    r.accuracy = testing::full_record().accuracy;
    json line = record_to_json(r);
    r.accuracy.reset();
    EXPECT_NE(error_of<Error>([&] { record_to_json(r); }).find("accuracy: missing"), std::string::npos);
    line["accuracy"] = nullptr;
    std::ofstream(path_) << line.dump() << "\n";
    EXPECT_NE(error_of([&] { read_records(path_, nullptr); }).find("records.jsonl:1: accuracy: missing"),
              std::string::npos);
    r.status = Status::kOom;
    EXPECT_NO_THROW(record_to_json(r)) << "without a time there is nothing to state";
    r.status = Status::kOk;
  }
  r.accuracy = Accuracy{.relative_error = INFINITY};
  EXPECT_NE(error_of<Error>([&] { record_to_json(r); }).find("accuracy: not a finite number"),
            std::string::npos);
  r.accuracy.reset();
  r.c.suite = Suite::kLimits;  // a rate of a lossy type loses nothing
  EXPECT_NO_THROW(record_to_json(r));
  r.c = Case{};
  EXPECT_NO_THROW(record_to_json(r));
}

// Without it runs that are kept would stop to be readable when a field is added.
TEST(Record, RecordsOfOlderVersionsAreRead) {
  const auto h200 = read_records("reports/baselines/h200/2026-11-24-generate/records.jsonl", nullptr);
  const auto fixture = read_records("reports/tests/fixtures/gpu_a/records.jsonl", nullptr);
  for (const auto& records : {h200, fixture}) {
    ASSERT_FALSE(records.empty());
    for (const Record& r : records) {
      EXPECT_FALSE(r.accuracy || r.weights_bytes || r.fraction_kept);
      EXPECT_TRUE(r.ranks.empty());
    }
  }
}

// Without it a damaged line in the middle would be passed over, and its case lost.
TEST_F(RecordFile, ADamagedLineIsAnErrorWithItsNumber) {
  { RecordWriter(path_).append(make_record(Case{}, 0, 1)); }
  std::ofstream(path_, std::ios::app) << "garbage\n";
  EXPECT_NE(error_of([&] { read_records(path_, nullptr); }).find("records.jsonl:2: not JSON"),
            std::string::npos);
}

// Without it two drivers on one folder would interleave their records.
TEST_F(RecordFile, ASecondWriterIsRefused) {
  RecordWriter first(path_);
  EXPECT_NE(error_of<IoError>([&] { RecordWriter second(path_); }).find("another process is writing it"),
            std::string::npos);
}

// Without it a full disk would leave half a line, and an error that does not say which file.
TEST_F(RecordFile, AFullDiskKeepsTheWholeRecords) {
  EXPECT_EQ(error_of<IoError>([] { LineLog("/dev/full").append("x"); }),
            "cannot write /dev/full: No space left on device");

  RecordWriter writer(path_);
  writer.append(make_record(Case{}, 0, 1));
  const auto size = fs::file_size(path_);
  // A limit on the size of files stands for the disk: the next line does not fit whole.
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  ::getrlimit(RLIMIT_FSIZE, &old);
  const rlimit small{size + 100, old.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  const std::string error = error_of<IoError>([&] { writer.append(make_record(Case{}, 1, 1)); });
  ::setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_EQ(error, "cannot write " + path_ + ": File too large");
  EXPECT_EQ(fs::file_size(path_), size);
  writer.append(make_record(Case{}, 2, 1));
  EXPECT_EQ(read_records(path_, nullptr).size(), 2u);
}

// Without it a reason quoting a worker's binary output would make the writer throw, and lose the record.
TEST_F(RecordFile, AReasonNeedNotBeUtf8) {
  Record r = make_record(Case{}, 0, 1);
  r.reason = "died: \xff\xfe";
  { RecordWriter(path_).append(r); }
  EXPECT_EQ(read_records(path_, nullptr).size(), 1u);
}

}  // namespace
}  // namespace tandem
