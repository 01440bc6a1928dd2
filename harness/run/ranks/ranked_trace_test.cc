#include "harness/run/ranks/ranked_trace.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "harness/base/json_text.h"
#include "harness/record/json_schema.h"
#include "harness/run/ranks/ranked_engine.h"
#include "harness/run/registry.h"

namespace tandem {
namespace {

using nlohmann::json;

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

/// What the devices of the ranks record: a product, and a sum over ranks that takes longer on rank 1.
struct Recorded : TraceSource {
  explicit Recorded(int64_t comm_ns) : comm_ns(comm_ns) {}
  std::string unavailable() const override { return ""; }
  void start() override { trace = {}; }
  Trace stop() override { return trace; }
  std::optional<Repetition> work() {
    const int64_t start = now_ns();
    while (now_ns() < start + 3000) {
    }
    const Phase product{PhaseKind::kFfnDown, Side::kDecoder, 0}, sum{PhaseKind::kComm, Side::kDecoder, 0};
    const Activity kernel{.name = "down", .start_ns = start + 100, .end_ns = start + 600, .phase = product};
    const Activity all_reduce{.kind = ActivityKind::kCommunication,
                              .name = "all_reduce",
                              .start_ns = start + 600,
                              .end_ns = start + 600 + comm_ns,
                              .phase = sum};
    trace.activities.push_back(kernel);
    trace.activities.push_back(all_reduce);
    return Repetition{.total_us = 2.5, .step_us = {}, .first_token_us = {}};
  }
  const int64_t comm_ns;
  Trace trace;
};

double busy_of(const json& phases, const std::string& phase) {
  for (const json& row : phases) {
    if (row.at("phase") == phase) return row.at("busy_us").get<double>();
  }
  return -1;
}

// Breaks when the devices of two ranks are taken for one, when a rank's trace has another's windows, or the time of the sums
// has no phase.
TEST(RankedTrace, EveryRankKeepsTheTraceOfItsOwnDevice) {
  const std::filesystem::path dir =
      std::filesystem::temp_directory_path() / fmt::format("tandem-ranked-trace.{}", ::getpid());
  const std::string address = new_local_address();
  std::thread other([&] {
    const auto world = join_ranks(address, {.rank = 1, .size = 2, .build = own_build()});
    auto source = std::make_unique<Recorded>(900);
    Recorded& device = *source;
    RankTracer tracer(std::move(source));
    for (;;) {
      json command;
      try {
        command = parse_json(world->receive_text(0, std::nullopt));
      } catch (const RankLost&) {
        return;
      }
      json answer = json::object();
      const auto call = command.at("call").get<std::string>();
      if (call == "trace_start") tracer.start();
      if (call == "trace_stop") tracer.stop();
      if (call == "repeat") tracer.window([&] { return device.work(); });
      if (call == "trace_keep") {
        answer["trace"] = tracer.keep(1, command.at("run_dir").get<std::string>(), command.at("about"));
      }
      world->send_text(0, answer.dump());
    }
  });
  {
    RankTeam team(2, {.launched = LaunchedRank{.rank = 0, .size = 2, .rendezvous = address, .by = "SIZE"}});
    Recorded own(300);
    struct Both : Workload {
      Both(RankTeam& team, Recorded& own) : team(team), own(own) {}
      Repetition repeat() override {
        std::optional<Repetition> r;
        team.together({{"call", "repeat"}}, [&] { r = own.work(); });
        return *r;
      }
      Output output() override { return {}; }
      int64_t peak_bytes() const override { return 0; }
      RankTeam& team;
      Recorded& own;
    } work(team, own);
    const Case c;
    const Ceilings ceilings;
    const auto source = trace_all_ranks(team, own);
    json line = trace_pass({.c = c, .workload = &work, .cost = nullptr, .ceilings = ceilings, .run_dir = dir},
                           ProfilePass::kNode, *source);
    EXPECT_EQ(line["status"], "ok") << line;
    EXPECT_NEAR(busy_of(line["phases"], "comm"), 0.3, 1e-9);
    ASSERT_EQ(line["ranks"].size(), 1u);
    const json& rank = line["ranks"][0];
    EXPECT_EQ(rank["rank"], 1);
    EXPECT_NEAR(busy_of(rank["phases"], "comm"), 0.9, 1e-9);
    EXPECT_NEAR(busy_of(rank["phases"], "ffn.down"), 0.5, 1e-9);
    EXPECT_EQ(rank["records"], line["records"]) << "as many replays, the first ones left out on both";
    line.update(
        {{"schema", "1.0.0"}, {"id", case_id(c)}, {"name", "n"}, {"pass", "node"}, {"timed_us", 1.0}});
    EXPECT_EQ(schema_error(profile_schema(), line), std::nullopt);
    std::ifstream file(dir / rank["trace"].get<std::string>());
    const json trace = parse_json(std::string(std::istreambuf_iterator<char>(file), {}));
    EXPECT_EQ(trace.at("rank"), 1);
    EXPECT_EQ(trace.at("format"), "tandem-trace");
  }
  other.join();
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace tandem
