#include "harness/run/profile.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

#include "harness/base/error.h"
#include "harness/record/json_schema.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

uint64_t now_ns() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

/// What a card would have recorded of the work below.
struct Card {
  std::vector<TandemTraceRecord> records;
  bool recording = false;
  uint64_t dropped = 0;
  uint32_t phase = 0, launches = 0;
  // Of counters, where this card has them.
  size_t room = 0;
  std::vector<std::string> ranges, counted;
  int passes = 0;
};
Card card;

void add(const char* name, uint64_t start, uint64_t length, bool node, uint32_t phase) {
  if (!card.recording) return;
  card.records.push_back({.kind = kTandemKernel,
                          .name = name,
                          .start_ns = start,
                          .end_ns = start + length,
                          .bytes = 0,
                          .graph_node = node ? 1u + card.records.size() : 0u,
                          .graph_nodes = node ? 2u : 0u,
                          .stream = 1,
                          .correlation = card.launches,
                          .phase = phase});
}

const TandemTracer kTable = {
    .abi = kTandemTracerAbi,
    .open = [](const TandemTracerConfig*, char*, size_t) { return 0; },
    .enter_phase = [](uint32_t phase) { card.phase = phase; },
    .leave_phase = [] { card.phase = 0; },
    .start =
        [](char*, size_t) {
          card.records.clear();
          card.recording = true;
          return 0;
        },
    .stop =
        [](void (*sink)(void*, const TandemTraceRecord*), void* context, TandemTraceTotals* totals, char*,
           size_t) {
          for (const auto& r : card.records) sink(context, &r);
          *totals = {.dropped = card.dropped, .overhead_ns = 0};
          card.recording = false;
          return 0;
        },
    .open_counters =
        [](const char* const*, size_t, size_t max_ranges, char* e, size_t n) {
          std::snprintf(e, n, "insufficient privileges");
          card.passes = 0;
          return max_ranges <= card.room ? 0 : 1;
        },
    .begin_pass =
        [](char*, size_t) {
          card.ranges.clear();
          return 0;
        },
    .push_range =
        [](const char* name, char*, size_t) {
          card.ranges.emplace_back(name);
          return 0;
        },
    .pop_range = [](char*, size_t) { return 0; },
    .end_pass =
        [](int* done, char*, size_t) {
          *done = ++card.passes == 2 ? 1 : 0;
          return 0;
        },
    .read_counters =
        [](void (*sink)(void*, const TandemCounterRange*), void* context, char*, size_t) {
          const double values[] = {10, 1, 2, 3, 50, 40};
          for (const std::string& name : card.ranges) {
            const TandemCounterRange range = {.name = name.c_str(), .values = values, .count = 6};
            sink(context, &range);
          }
          card.counted.insert(card.counted.end(), card.ranges.begin(), card.ranges.end());
          return 0;
        },
};

constexpr Phase kPhase{PhaseKind::kFfnUp, Side::kDecoder, 2};

/// A kernel that sets up, then a graph of two kernels: 900 ns with a phase, a gap of 50 ns, 50 ns without.
class Work : public Workload {
 public:
  Repetition repeat() override {
    ++card.launches;
    const uint64_t start = now_ns();
    add("set_up", start, 10, false, 0);
    add("mine", start + 100, 900, true, phase_tag(kPhase));
    add("planted", start + 1050, 50, true, 0);
    while (now_ns() < start + 2000) std::this_thread::yield();
    return {.total_us = 1.0, .step_us = {}, .first_token_us = {}};
  }
  std::optional<Repetition> repeat_eager() override {
    const PhaseRange range(kPhase);
    return repeat();
  }
  Output output() override { return {}; }
  int64_t peak_bytes() const override { return 0; }
};

class ProfileTest : public testing::Test {
 protected:
  void SetUp() override {
    card = {};
    dir_ = fs::temp_directory_path() / ("tandem-profile-test." + std::to_string(::getpid()));
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }
  ProfileSubject subject() {
    return {
        .c = c_, .workload = &work_, .cost = nullptr, .ceilings = ceilings_, .tokens = 1, .run_dir = dir_};
  }

  fs::path dir_;
  Case c_;
  Work work_;
  Ceilings ceilings_;
};

// Breaks when set-up counts as the case, orphans hide, or busy and gaps are not those of a replay.
TEST_F(ProfileTest, ANodeTraceSaysWhereTheTimeGoes) {
  Tracer tracer(&kTable);
  const auto line = trace_pass(subject(), ProfilePass::kNode, tracer);
  EXPECT_EQ(line["status"], "ok");
  nlohmann::json whole = line;  // what the worker and the driver add
  whole.update(
      {{"schema", "1.0.0"}, {"id", case_id(c_)}, {"name", "n"}, {"pass", "node"}, {"timed_us", 1.0}});
  EXPECT_EQ(schema_error(profile_schema(), whole), std::nullopt);
  EXPECT_NEAR(line["busy_us"].get<double>(), 0.95, 1e-9);
  EXPECT_NEAR(line["gaps_us"].get<double>(), 0.05, 1e-9);
  EXPECT_NEAR(line["gpu_busy_attributed"].get<double>(), 900.0 / 950, 1e-9);
  EXPECT_EQ(line["orphans"][0]["name"], "planted");
  EXPECT_EQ(line["phases"][0]["phase"], "ffn.up");
  EXPECT_DOUBLE_EQ(line["phases"][0]["launches"].get<double>(), 1);
  std::ifstream in(dir_ / line["trace"].get<std::string>());
  const auto trace = nlohmann::json::parse(in);
  EXPECT_EQ(trace["activities"]["start"].size(), 2 * line["replays"].get<size_t>());
}

// Breaks when a trace that lost records passes for whole.
TEST_F(ProfileTest, LossesMakeAProfileIncomplete) {
  card.dropped = 3;
  Tracer tracer(&kTable);
  const auto line = trace_pass(subject(), ProfilePass::kNode, tracer);
  EXPECT_EQ(line["status"], "incomplete");
  EXPECT_EQ(line["dropped"], 3);
  EXPECT_NE(line["reason"].get<std::string>().find("3 records dropped"), std::string::npos);
}

// Breaks when a profiler or counters that are not there end the pass instead of answering it.
TEST_F(ProfileTest, WhatIsNotThereSaysWhy) {
  Tracer absent("another profiler owns CUPTI");
  EXPECT_EQ(trace_pass(subject(), ProfilePass::kNode, absent)["reason"], "another profiler owns CUPTI");
  Tracer tracer(&kTable);
  const auto line = counters_pass(subject(), tracer);
  EXPECT_EQ(line["status"], "unavailable");
  EXPECT_NE(line["reason"].get<std::string>().find("insufficient privileges"), std::string::npos);
}

/// A generation of many steps: more phases than a pass of counters has room for.
class ManySteps : public Work {
 public:
  std::optional<Repetition> repeat_eager() override {
    for (int step = 0; step < kSteps; ++step) const PhaseRange range(kPhase);
    return Repetition{.total_us = 1, .step_us = {}, .first_token_us = {}};
  }
  static constexpr int kSteps = 5000;
};

// Breaks when a generation pushes more ranges than a pass has room for (CUPTI dies of that), or a phase is counted twice or
// not at all.
TEST_F(ProfileTest, CountersOfManyPhasesAreTakenInParts) {
  card.room = 2048;
  Tracer tracer(&kTable);
  ManySteps work;
  ProfileSubject many = subject();
  many.workload = &work;
  const auto line = counters_pass(many, tracer);
  ASSERT_EQ(line["status"], "ok") << line.dump();
  EXPECT_LE(card.ranges.size(), card.room);
  std::map<std::string, int> ranges;
  for (const auto& row : line["ranges"]) ranges[row["range"].get<std::string>()] = row["ranges"].get<int>();
  EXPECT_EQ(ranges, (std::map<std::string, int>{{"decoder/ffn.up", ManySteps::kSteps}, {"replay", 1}}));
  EXPECT_EQ(line["passes"], 6) << "three parts of two passes";
}

// Breaks when a pass is taken for another.
TEST_F(ProfileTest, PassesAreNamed) {
  for (int i = 0; i < kProfilePasses; ++i) {
    const auto pass = static_cast<ProfilePass>(i);
    EXPECT_EQ(parse_pass(pass_name(pass)), pass);
  }
  EXPECT_THROW(parse_pass("kernel"), UsageError);
}

}  // namespace
}  // namespace tandem
