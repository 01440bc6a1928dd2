#include "harness/run/worker.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "harness/base/error.h"
#include "harness/card/testing/recorded_nvml.h"
#include "harness/run/case_cost.h"
#include "harness/run/energy.h"
#include "harness/run/testing/fake_engine.h"

namespace tandem {
namespace {

using testing::FakeEngine;
using testing::Fault;

class WorkerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(::testing::TempDir()) /
           (std::string("tandem-worker-") + ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  EngineRegistry registry(Fault fault) {
    return {.make = [fault](const std::string& name, const EngineOptions&) -> std::unique_ptr<Engine> {
              return std::make_unique<FakeEngine>(name, name == "reference" ? Fault::kNone : fault);
            },
            .device_usable = [](int, std::string*) { return true; },
            .l2_bytes = [](int) { return std::optional<double>(); }};
  }
  Case tiny(Suite suite) {
    Case c;
    c.suite = suite;
    c.model = "tiny";
    c.batch = 2;
    c.src = 8;
    c.tgt = 4;
    c.engine = "reference";
    c.precision = Precision::kFp32;
    return c;
  }
  WorkerOptions options() {
    WorkerOptions o;
    o.run_dir = dir_.string();
    return o;
  }
  std::filesystem::path dir_;
};

// Breaks when the main path leaves a record that the schema's reader refuses, or loses the samples.
TEST_F(WorkerTest, RecordRoundTripsWithItsSamples) {
  const EngineRegistry engines = registry(Fault::kNone);
  Worker worker(engines, options());
  const Case c = tiny(Suite::kGenerate);
  const Record r = worker.measure_case(c, worker.validate_case(c));
  ASSERT_EQ(r.status, Status::kOk) << r.reason.value_or("");
  const Record back = record_from_json(nlohmann::json::parse(record_to_json(r).dump()));
  EXPECT_EQ(back.id, case_id(c));
  EXPECT_EQ(back.summary->median_us, 1000);
  EXPECT_EQ(back.metrics.step_us, 10);
  EXPECT_EQ(back.kernels, std::vector<std::string>{"decoder head: fake"});
  EXPECT_EQ(back.metrics.inter_token_p50_us, 10);
  EXPECT_EQ(back.metrics.inter_token_p95_us, 30) << "the slow token of every pass";
  EXPECT_FALSE(back.metrics.inter_token_p99_us) << "of 24 intervals";
  EXPECT_EQ(back.check->digest, back.check->digest_after);
  ASSERT_TRUE(back.samples);
  EXPECT_EQ(std::filesystem::file_size(dir_ / back.samples->file), back.samples->n * sizeof(float));
}

// Breaks when what a lossy form costs is lost on the way to the record, or such a case is timed without it.
TEST_F(WorkerTest, TheRecordCarriesTheAccuracyAndTheWeights) {
  const EngineRegistry engines = registry(Fault::kLossy);
  Worker worker(engines, options());
  Case c = tiny(Suite::kDecoder);
  c.engine = "cuda";
  Record r = worker.measure_case(c, worker.validate_case(c));
  EXPECT_FALSE(r.accuracy);
  EXPECT_EQ(r.weights_bytes, 2048);
  EXPECT_EQ(r.fraction_kept, 1);

  c.sparsity = "2:4";
  Validation v = worker.validate_case(c);
  r = worker.measure_case(c, v);
  ASSERT_EQ(r.status, Status::kOk) << r.reason.value_or("");
  const Record back = record_from_json(nlohmann::json::parse(record_to_json(r).dump()));
  EXPECT_EQ(back.accuracy->relative_error, v.accuracy->relative_error);
  EXPECT_EQ(back.accuracy->tokens_agree, 1);
  EXPECT_FALSE(back.fraction_kept || back.pruned) << "this engine has not counted";

  v.accuracy.reset();
  r = worker.measure_case(c, v);
  EXPECT_EQ(r.status, Status::kError);
  EXPECT_FALSE(r.summary);
  EXPECT_NE(r.reason->find("accuracy: missing"), std::string::npos) << *r.reason;
}

// Breaks when the dense fp32 model is loaded, and the accuracy measured, for every case anew, another group gets this one's,
// or a group that has none is asked again.
TEST_F(WorkerTest, AccuracyIsMeasuredOnceAGroup) {
  int dense = 0;
  struct Counting : FakeEngine {
    Counting(const std::string& name, Fault fault, int* n) : FakeEngine(name, fault), n_(n) {}
    void check_supported(const Case& c) const override {
      if (!is_lossy(c)) ++*n_;  // asked before each load
      FakeEngine::check_supported(c);
    }
    int* n_;
  };
  const auto validations = [&](Fault fault) {
    EngineRegistry engines = registry(fault);
    engines.make = [&](const std::string& name, const EngineOptions&) -> std::unique_ptr<Engine> {
      return std::make_unique<Counting>(name, name == "reference" ? Fault::kNone : fault, &dense);
    };
    Worker worker(engines, options());
    Case a = tiny(Suite::kDecoder);
    a.engine = "cuda";
    a.sparsity = "2:4";
    a.batch = 1;
    Case b = a, other = a;
    b.batch = 64;
    b.tgt = 9;
    other.suite = Suite::kEncoder;
    dense = 0;
    std::vector<Validation> found = {worker.validate_case(a), worker.validate_case(b)};
    EXPECT_EQ(dense, 1);
    found.push_back(worker.validate_case(other));
    EXPECT_EQ(dense, 2);
    return found;
  };
  const auto of = validations(Fault::kLossyText);
  ASSERT_TRUE(of[0].accuracy && of[1].accuracy && of[2].accuracy) << of[0].reason.value_or("");
  EXPECT_EQ(accuracy_to_json(*of[0].accuracy), accuracy_to_json(*of[1].accuracy));
  EXPECT_EQ(of[0].accuracy->tokens, 256);
  EXPECT_FALSE(of[2].accuracy->tokens_agree);
  for (const Validation& v : validations(Fault::kNoDense)) EXPECT_EQ(v.status, Status::kError);
}

// Breaks when clocks or energy are read from another card than the one that computes: on this machine CUDA's device 0 is the
// second on the bus.
TEST_F(WorkerTest, ClocksAndEnergyAreOfTheCardInUse) {
  testing::machine() = {testing::l40s(), testing::h200()};
  static const NvmlFunctions nvml = testing::recorded();
  EngineRegistry engines = registry(Fault::kNone);
  engines.card_uuid = [](int device) {
    return std::optional<std::string>((device == 0 ? testing::h200() : testing::l40s()).uuid);
  };
  Case c = tiny(Suite::kDecoder);
  c.engine = "cuda";
  ::setenv("TANDEM_SAMPLE_SECONDS", "0:0.01", 1);
  for (const int device : {0, 1}) {
    WorkerOptions o = options();
    o.nvml = [] { return &nvml; };
    o.engine.device = device;
    Worker worker(engines, o);
    const Record r = worker.measure_case(c, worker.validate_case(c));
    ASSERT_FALSE(r.clock_blocks.empty());
    EXPECT_EQ(r.clock_blocks[0].sm_mhz, device == 0 ? 1755 : 2520);
    EXPECT_EQ(r.regime.has_value(), r.warmup_steady.value()) << "sustained is what was seen";
    const auto joules = energy_counter(&nvml, card_in_use(&nvml, engines.card_uuid(device), device));
    EXPECT_EQ(joules(), device == 0 ? 5 : 9);
  }
  ::unsetenv("TANDEM_SAMPLE_SECONDS");
  EXPECT_FALSE(energy_counter(&nvml, std::nullopt)());
}

// Breaks when a planted build times a case that nothing was planted in: its duet would count as a missed slow-down.
TEST_F(WorkerTest, WhatCannotBePlantedIsNotTimed) {
  const EngineRegistry engines = registry(Fault::kNone);
  WorkerOptions o = options();
  o.plant_percent = 2;
  Worker worker(engines, o);
  const Case c = tiny(Suite::kEncoder);
  const Record r = worker.measure_case(c, worker.validate_case(c));
  EXPECT_EQ(r.status, Status::kError);
  EXPECT_FALSE(r.summary || r.planted);
  EXPECT_NE(r.reason->find("plant: this engine"), std::string::npos) << *r.reason;
}

// Breaks when an engine is not told which cases share its memory, or a case settles the clock that one before it has settled.
TEST_F(WorkerTest, CasesOfAProcessShareMemoryAndClock) {
  std::vector<Case> told;
  struct Told : FakeEngine {
    explicit Told(std::vector<Case>* cases) : FakeEngine("reference", Fault::kNone), cases_(cases) {}
    void expect(const std::vector<Case>& cases) override { *cases_ = cases; }
    std::vector<Case>* cases_;
  };
  EngineRegistry engines = registry(Fault::kNone);
  engines.make = [&](const std::string&, const EngineOptions&) -> std::unique_ptr<Engine> {
    return std::make_unique<Told>(&told);
  };
  Case a = tiny(Suite::kDecoder), b = a;
  b.batch = 4;
  std::ofstream(dir_ / "cases.json") << nlohmann::json::array({case_to_json(a), case_to_json(b)}).dump();
  {
    Worker worker(engines, options());
    std::ofstream validation(dir_ / "validation.jsonl");
    serve_cases(worker, (dir_ / "cases.json").string(), ServeMode::kValidate, validation);
    EXPECT_TRUE(told.empty()) << "a check prepares witnesses and twins";
  }
  Worker worker(engines, options());
  std::ostringstream out;
  serve_cases(worker, (dir_ / "cases.json").string(), ServeMode::kMeasure, out);
  ASSERT_EQ(told.size(), 2u);
  EXPECT_EQ(case_id(told[1]), case_id(b));
  std::istringstream lines(out.str());
  std::string first, second;
  std::getline(lines, first);
  std::getline(lines, second);
  EXPECT_EQ(record_from_json(nlohmann::json::parse(first)).warmup_confirmed, false);
  EXPECT_EQ(record_from_json(nlohmann::json::parse(second)).warmup_confirmed, true);
}

// Breaks when an output that changed after the check keeps its time.
TEST_F(WorkerTest, ChangedOutputAfterTimingIsInvalid) {
  const EngineRegistry engines = {
      .make = [](const std::string& name, const EngineOptions&) -> std::unique_ptr<Engine> {
        return std::make_unique<FakeEngine>(name, Fault::kUnstable);
      },
      .device_usable = [](int, std::string*) { return true; },
      .l2_bytes = [](int) { return std::optional<double>(); }};
  Worker worker(engines, options());
  const Case c = tiny(Suite::kDecoder);
  const Record r = worker.measure_case(c, worker.validate_case(c));
  EXPECT_EQ(r.status, Status::kInvalid);
  EXPECT_FALSE(r.summary);
  EXPECT_NE(r.reason->find("not the one that was checked"), std::string::npos);
}

// Breaks when a case without a passed validation is timed.
TEST_F(WorkerTest, NothingUnvalidatedIsTimed) {
  const EngineRegistry engines = registry(Fault::kNone);
  std::ofstream(dir_ / "cases.json") << nlohmann::json::array({case_to_json(tiny(Suite::kDecoder))}).dump();
  Worker worker(engines, options());
  std::ostringstream out;
  serve_cases(worker, (dir_ / "cases.json").string(), ServeMode::kMeasure, out);
  const Record r = record_from_json(nlohmann::json::parse(out.str()));
  EXPECT_EQ(r.status, Status::kError);
  EXPECT_FALSE(r.summary);

  // The same after the validation pass, through validation.jsonl with a line that a kill cut off.
  std::ostringstream validation;
  serve_cases(worker, (dir_ / "cases.json").string(), ServeMode::kValidate, validation);
  std::ofstream(dir_ / "validation.jsonl") << validation.str() << R"({"id":"cut)";
  std::ostringstream again;
  serve_cases(worker, (dir_ / "cases.json").string(), ServeMode::kMeasure, again);
  EXPECT_EQ(record_from_json(nlohmann::json::parse(again.str())).status, Status::kOk) << again.str();
}

// Breaks when a file that nests without end ends the process instead of being an error in one line.
TEST_F(WorkerTest, DeepFilesAreRefused) {
  const EngineRegistry engines = registry(Fault::kNone);
  Worker worker(engines, options());
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  const std::string path = (dir_ / "cases.json").string();
  auto said = [&](ServeMode mode) -> std::string {
    std::ostringstream out;
    try {
      serve_cases(worker, path, mode, out);
    } catch (const UsageError& e) {
      return e.what();
    }
    return out.str();
  };
  std::ofstream(path) << deep;
  EXPECT_EQ(said(ServeMode::kValidate), fmt::format("--cases: '{}': JSON that nests deeper than 64", path));

  std::ofstream(path) << nlohmann::json::array({case_to_json(tiny(Suite::kDecoder))}).dump();
  const std::string validation = (dir_ / "validation.jsonl").string();
  std::ofstream(validation) << deep << "\n";
  EXPECT_EQ(said(ServeMode::kMeasure), fmt::format("{}: JSON that nests deeper than 64", validation));
}

// Breaks when `tandem list` cannot tell what an engine would refuse, and why, in the words of the validation pass.
TEST_F(WorkerTest, SupportedIsALineACase) {
  Case c = tiny(Suite::kDecoder);
  c.engine = "cuda";
  std::ofstream(dir_ / "cases.json") << nlohmann::json::array({case_to_json(c)}).dump();
  auto line_of = [&](Fault fault, ServeMode mode) {
    const EngineRegistry engines = registry(fault);
    Worker worker(engines, options());
    std::ostringstream out;
    serve_cases(worker, (dir_ / "cases.json").string(), mode, out);
    return nlohmann::json::parse(out.str());
  };
  const std::pair<Fault, const char*> refused[] = {
      {Fault::kImpossible, "skipped"}, {Fault::kTooLarge, "oom"}, {Fault::kBroken, "error"}};
  for (const auto& [fault, status] : refused) {
    const auto listed = line_of(fault, ServeMode::kSupported);
    const auto checked = line_of(fault, ServeMode::kValidate);
    EXPECT_EQ(listed["status"], status);
    for (const char* key : {"id", "status", "reason"}) EXPECT_EQ(listed[key], checked[key]) << key;
  }
  EXPECT_EQ(line_of(Fault::kNone, ServeMode::kSupported)["status"], "ok");
}

// Breaks when cases of one group load the weights again.
TEST_F(WorkerTest, OneGroupLoadsOnce) {
  int loads = 0;
  struct Counting : FakeEngine {
    explicit Counting(int* n) : FakeEngine("reference", Fault::kNone), n_(n) {}
    void load(const Case& c, const ModelConfig& m, const WeightForm& p) override {
      ++*n_;
      FakeEngine::load(c, m, p);
    }
    int* n_;
  };
  const EngineRegistry engines = {
      .make = [&](const std::string&, const EngineOptions&) -> std::unique_ptr<Engine> {
        return std::make_unique<Counting>(&loads);
      },
      .device_usable = [](int, std::string*) { return true; },
      .l2_bytes = [](int) { return std::optional<double>(); }};
  Worker by_hand(engines, options());
  Case a = tiny(Suite::kDecoder), b = a;
  b.batch = 4;
  const Validation va = by_hand.validate_case(a), vb = by_hand.validate_case(b);
  EXPECT_EQ(by_hand.measure_case(a, va).status, Status::kOk);
  EXPECT_EQ(loads, 1) << "what was checked is timed";
  Worker timed(engines, options());
  EXPECT_EQ(timed.measure_case(a, va).status, Status::kOk);
  EXPECT_EQ(timed.measure_case(b, vb).status, Status::kOk);
  EXPECT_EQ(loads, 2);
  Case other = a;
  other.weights = "seed:1";
  EXPECT_EQ(by_hand.validate_case(other).status, Status::kOk);
  EXPECT_EQ(by_hand.validate_case(a).status, Status::kOk);
  EXPECT_EQ(loads, 4) << "one group at a time is held";
}

// Breaks when an operation's rate is not bytes over its median.
TEST_F(WorkerTest, OperationsHaveRates) {
  const EngineRegistry engines = registry(Fault::kNone);
  Worker worker(engines, options());
  Case c = tiny(Suite::kLimits);
  c.op = "read";
  const Record r = worker.measure_case(c, worker.validate_case(c));
  ASSERT_EQ(r.status, Status::kOk) << r.reason.value_or("");
  EXPECT_DOUBLE_EQ(*r.metrics.gigabytes_per_second, 1.0);  // 1e6 bytes in 1000 us
  EXPECT_EQ(r.fraction_kept, 0.5) << "of a product's matrix";
}

// Breaks when the floor of a collective is its message at the memory's rate, ten times too low, or is made up where the rate of the
// links is not known.
TEST(OpFloor, ACollectivesIsThatOfTheLinks) {
  Ceilings ceilings;
  ceilings.read_gbs = 4000;
  Record r;
  r.c.suite = Suite::kCollectives;
  OpWorkload op;
  op.bytes_read = 1 << 20;
  fill_op_floor(r, op, ceilings);
  EXPECT_FALSE(r.floor.floor_us) << "one that says nothing of links";
  op.link_bytes = sum_link_bytes(1 << 20, 4);
  fill_op_floor(r, op, ceilings);
  EXPECT_FALSE(r.floor.floor_us || r.floor.links_us || r.floor.bound);
  r.floor.link_gbs = 450;
  r.summary = summarize({9, 10, 11});
  fill_op_floor(r, op, ceilings);
  EXPECT_DOUBLE_EQ(r.floor.links_us.value_or(0), 1.5 * (1 << 20) / 450e3);
  EXPECT_EQ(r.floor.floor_us, r.floor.links_us);
  EXPECT_EQ(r.floor.bound, "links");
  EXPECT_DOUBLE_EQ(r.floor.ratio.value_or(0), 10 / *r.floor.links_us);
}

// Breaks when a record's model is of its own degrees alone, of one that does not divide, of other links than the case's card has, or
// made of a ceiling that nobody measured.
TEST(CaseModel, ARecordSaysWhatOtherDegreesWouldTake) {
  Ceilings card;
  card.read_gbs = card.copy_gbs = 4000;
  card.burst_tflops.fill(700);
  Record r;
  r.c.suite = Suite::kGenerate;
  r.c.model = "t5-base";
  r.c.precision = Precision::kBf16;
  r.c.tp = 2;
  r.c.dp = 2;
  const ModelConfig config = load_model(r.c.model);
  fill_cost(r, config, card, {});
  EXPECT_FALSE(r.model) << "without the time of an empty node";
  card.empty_node_us = 1;
  fill_cost(r, config, card, {});
  ASSERT_TRUE(r.model);
  EXPECT_EQ(r.model->card_gbs, Links().card_gbs);
  ASSERT_EQ(r.model->degrees.size(), 3u) << "8 does not divide 12 heads";
  for (size_t i = 0; i < 3; ++i) {
    const ModelRow::Degree& d = r.model->degrees[i];
    EXPECT_EQ(d.tp, 1 << i);
    EXPECT_EQ(d.comm_us > 0, d.tp > 1);
    const auto alone = case_model(r.c, config, card, d.tp, {});
    EXPECT_EQ(d.sample_us, alone->sample.total_us());
    EXPECT_EQ(d.step_us, alone->step->total_us());
    EXPECT_LT(*d.step_us * r.c.tgt, d.sample_us) << "an encoder comes before the steps";
  }
  const double comm_us = r.model->degrees[1].comm_us;
  r.floor.link_gbs = 1;
  fill_cost(r, config, card, {});
  EXPECT_EQ(r.model->card_gbs, 1);
  EXPECT_GT(r.model->degrees[1].comm_us, comm_us);
}

// Breaks when attention of an 8-bit case is held to the rate of its products, which nothing here attends with.
TEST(OpFloor, AttentionHasItsOwnRate) {
  Ceilings ceilings;
  ceilings.burst_tflops[static_cast<size_t>(Precision::kFp8)] = 1500;
  ceilings.burst_tflops[static_cast<size_t>(Precision::kBf16)] = 750;
  Record r;
  r.c.precision = Precision::kFp8;
  OpWorkload op;
  op.flops = 1.5e9;
  fill_op_floor(r, op, ceilings);
  EXPECT_NEAR(r.floor.floor_us.value(), 1, 1e-9);
  op.unit = ComputeUnit::kActivations;
  fill_op_floor(r, op, ceilings);
  EXPECT_NEAR(r.floor.floor_us.value(), 2, 1e-9);
}

// Breaks when a timed process cannot tell that a profiler sits in it.
TEST(Process, SaysWhetherAProfilerIsMapped) {
  EXPECT_EQ(profiler_mapped(), std::optional<bool>(false));
}

}  // namespace
}  // namespace tandem
