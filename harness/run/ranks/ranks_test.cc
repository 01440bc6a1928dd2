#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "harness/base/error.h"
#include "harness/card/testing/recorded_nvml.h"
#include "harness/run/case_cost.h"
#include "harness/run/ranks/ranked_clocks.h"
#include "harness/run/ranks/ranked_engine.h"
#include "harness/run/ranks/wire.h"
#include "harness/run/testing/fake_engine.h"
#include "harness/run/worker.h"

namespace tandem {
namespace {

using testing::FakeEngine;
using testing::Fault;

EngineRegistry registry(Fault fault, Fault of_others) {
  return {.make = [=](const std::string& name, const EngineOptions& options) -> std::unique_ptr<Engine> {
            const bool other = options.seat != nullptr && options.seat->group.rank() > 0;
            return std::make_unique<FakeEngine>(name, other ? of_others : fault);
          },
          .device_usable = [](int, std::string*) { return true; },
          .l2_bytes = [](int) { return std::optional<double>(); }};
}

Case tiny(int tp, int dp) {
  Case c;
  c.suite = Suite::kGenerate;
  c.model = "tiny";
  c.batch = 2;
  c.src = 8;
  c.tgt = 4;
  c.engine = "fake";
  c.precision = Precision::kFp32;
  c.tp = tp;
  c.dp = dp;
  return c;
}

/// A worker, and the other ranks as threads that follow it, as if a launcher had started them all.
struct Ranks {
  Ranks(
      int size, const EngineRegistry& mine, const EngineRegistry& others,
      const NvmlFunctions* (*cards)() = [] { return static_cast<const NvmlFunctions*>(nullptr); }) {
    const std::string address = new_local_address();
    for (int r = 1; r < size; ++r) {
      threads.emplace_back([=, &others] {
        const auto world = join_ranks(address, {.rank = r, .size = size, .build = own_build()});
        follow(*world, others, {.device = r}, cards());
      });
    }
    WorkerOptions options;
    options.ranks.wait_s = 2;
    options.nvml = cards;
    options.ranks.launched = LaunchedRank{.rank = 0, .size = size, .rendezvous = address, .by = "SIZE"};
    worker = std::make_unique<Worker>(mine, options);
  }
  ~Ranks() {
    worker.reset();
    for (std::thread& t : threads) t.join();
  }
  std::vector<std::thread> threads;
  std::unique_ptr<Worker> worker;
};

// Breaks when a record of several ranks lacks them, or counts one replica's tokens only.
TEST(Ranks, TheRecordHasEveryRankAndAllTokens) {
  const EngineRegistry engines = registry(Fault::kNone, Fault::kNone);
  Ranks ranks(4, engines, engines);
  const Case c = tiny(2, 2);
  const Record r = ranks.worker->measure_case(c, ranks.worker->validate_case(c));
  ASSERT_EQ(r.status, Status::kOk) << r.reason.value_or("");
  ASSERT_EQ(r.ranks.size(), 4u);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(r.ranks[i].rank, i);
    EXPECT_FALSE(r.ranks[i].host.empty());
    EXPECT_EQ(r.ranks[i].median_us, 1000);
    EXPECT_FALSE(r.ranks[i].wait_us) << "an engine that does not say what its exchanges take";
  }
  EXPECT_EQ(r.metrics.tokens_per_second, 2 * 2 * 4 / 1000e-6);
  const Record back = record_from_json(nlohmann::json::parse(record_to_json(r).dump()));
  EXPECT_EQ(back.ranks.size(), 4u);
}

/// As an engine on cards: before it ends it waits for the others of its replica.
class PartingEngine : public FakeEngine {
 public:
  PartingEngine(const std::string& name, Communicator& others, std::atomic<int>& parted)
      : FakeEngine(name, Fault::kNone), others_(others), parted_(parted) {}
  ~PartingEngine() override {
    try {
      others_.barrier(nullptr);
      ++parted_;
    } catch (const Error&) {
    }
  }

 private:
  Communicator& others_;
  std::atomic<int>& parted_;
};

// Breaks when rank 0 drops its engine while the others wait for its next word: on cards that was the end of a worker after its last
// case, for ever where NCCL was in use.
TEST(Ranks, EnginesPartTogether) {
  std::atomic<int> parted = 0;
  EngineRegistry engines = registry(Fault::kNone, Fault::kNone);
  engines.make = [&](const std::string& name, const EngineOptions& options) -> std::unique_ptr<Engine> {
    if (options.seat == nullptr) return std::make_unique<FakeEngine>(name, Fault::kNone);
    return std::make_unique<PartingEngine>(name, *options.seat->tensor, parted);
  };
  {
    Ranks ranks(4, engines, engines);
    const Case c = tiny(4, 1);
    const Record r = ranks.worker->measure_case(c, ranks.worker->validate_case(c));
    EXPECT_EQ(r.status, Status::kOk) << r.reason.value_or("");
    const Case other = tiny(2, 2);  // by other engines
    EXPECT_EQ(ranks.worker->validate_case(other).status, Status::kOk);
    EXPECT_EQ(parted, 4);
  }
  EXPECT_EQ(parted, 8);
}

class FailingEngine : public FakeEngine {
 public:
  explicit FailingEngine(const std::string& name) : FakeEngine(name, Fault::kNone) {}
  void load(const Case&, const ModelConfig&, const WeightForm&) override { throw Error("no more"); }
};

// Breaks when a worker whose ranks are out of step waits for them before it ends: they wait for its next word.
TEST(Ranks, BrokenRanksAreNotWaitedFor) {
  std::atomic<int> parted = 0;
  EngineRegistry engines = registry(Fault::kNone, Fault::kNone);
  EngineRegistry others = engines;
  others.make = [](const std::string& name, const EngineOptions&) {
    return std::make_unique<FailingEngine>(name);
  };
  engines.make = [&](const std::string& name, const EngineOptions& options) -> std::unique_ptr<Engine> {
    if (options.seat == nullptr) return std::make_unique<FakeEngine>(name, Fault::kNone);
    return std::make_unique<PartingEngine>(name, *options.seat->tensor, parted);
  };
  const auto start = std::chrono::steady_clock::now();
  {
    Ranks ranks(2, engines, others);
    EXPECT_EQ(ranks.worker->validate_case(tiny(2, 1)).status, Status::kError);
  }
  EXPECT_EQ(parted, 0);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
}

/// Two cards in a host: the first at full clock, the second held down, with somebody else on it.
const NvmlFunctions* two_cards() {
  static const NvmlFunctions functions = testing::recorded();
  return &functions;
}

// Breaks when the record knows the clocks of rank 0's card alone, when another's that is held down counts for nothing, or when the
// floor of ranks on cards leaves out what they exchange.
TEST(Ranks, EveryRanksCardIsRead) {
  testing::Recorded first = testing::h200(), second = testing::l40s();
  first.reasons = 0;
  second.processes.push_back({4343, 1ull << 30, ~0u, ~0u});
  testing::machine() = {first, second};
  const auto make = [](const std::string& name, const EngineOptions& options) -> std::unique_ptr<Engine> {
    const int rank = options.seat != nullptr ? options.seat->group.rank() : 0;
    return std::make_unique<FakeEngine>(name, Fault::kNone, 1700 + 10 * rank);
  };
  EngineRegistry engines = registry(Fault::kNone, Fault::kNone);
  engines.make = make;
  engines.card_uuid = [=](int device) {
    return std::optional<std::string>(device == 0 ? first.uuid : second.uuid);
  };
  Ranks ranks(2, engines, engines, two_cards);
  const Case c = tiny(2, 1);
  ::setenv("TANDEM_SAMPLE_SECONDS", "0:0.01", 1);
  const Record r = ranks.worker->measure_case(c, ranks.worker->validate_case(c));
  ::unsetenv("TANDEM_SAMPLE_SECONDS");
  ASSERT_EQ(r.status, Status::kOk) << r.reason.value_or("");
  ASSERT_EQ(r.ranks.size(), 2u);
  ASSERT_TRUE(r.ranks[0].clocks && r.ranks[1].clocks);
  EXPECT_EQ(r.ranks[0].card, "NVIDIA H200");
  EXPECT_EQ(r.ranks[1].card, "NVIDIA L40S");
  EXPECT_EQ(r.ranks[0].clocks->sm_mhz, 1755);
  EXPECT_EQ(r.ranks[1].clocks->sm_mhz, 2520);
  EXPECT_EQ(r.ranks[0].clocks->mean_sm_mhz, 1700);
  EXPECT_EQ(r.ranks[1].clocks->mean_sm_mhz, 1710);
  EXPECT_EQ(r.ranks[0].clocks->throttled_blocks, 0);
  EXPECT_EQ(r.ranks[1].clocks->throttled_blocks, static_cast<int64_t>(r.clock_blocks.size()));
  EXPECT_EQ(r.ranks[1].clocks->reasons, std::vector<std::string>{"sw_power_cap"});
  EXPECT_FALSE(r.ranks[0].clocks->contended.value_or(false));
  EXPECT_EQ(r.ranks[1].clocks->contended, true);
  EXPECT_EQ(r.throttled_samples, r.summary->n) << "the slowest rank's time counts";
  EXPECT_EQ(r.contended, true);
  ASSERT_FALSE(r.clock_blocks.empty());
  EXPECT_EQ(r.clock_blocks[0].sm_mhz, 1755) << "rank 0's";
  EXPECT_EQ(r.floor.link_gbs, 450);
  const Cost cost = case_cost(c, load_model(c.model));
  EXPECT_GT(cost.link_bytes(), 0);
  EXPECT_DOUBLE_EQ(r.floor.links_us.value_or(0), cost.link_bytes() / 450e3);
  Case sum = c;
  sum.suite = Suite::kCollectives;
  sum.op = "all_reduce";
  const Record summed = ranks.worker->measure_case(sum, ranks.worker->validate_case(sum));
  ASSERT_EQ(summed.status, Status::kOk) << summed.reason.value_or("");
  EXPECT_DOUBLE_EQ(summed.floor.floor_us.value_or(0), 9e4 / 450e3) << "the links' of the fake's collective";
  const Record back = record_from_json(nlohmann::json::parse(record_to_json(r).dump()));
  EXPECT_EQ(back.ranks[1].clocks->mean_sm_mhz, 1710);
  EXPECT_EQ(back.floor.links_us, r.floor.links_us);
}

// Breaks when energy of ranks is rank 0's alone, or one that cannot be read counts as none.
TEST(Ranks, JoulesOfEveryRank) {
  testing::machine() = {testing::h200(), testing::l40s()};
  EngineRegistry engines = registry(Fault::kNone, Fault::kNone);
  engines.card_uuid = [](int device) {
    return std::optional<std::string>((device == 0 ? testing::h200() : testing::l40s()).uuid);
  };
  const std::string address = new_local_address();
  std::thread other([&] {
    const auto world = join_ranks(address, {.rank = 1, .size = 2, .build = own_build()});
    follow(*world, engines, {.device = 1}, two_cards());
  });
  {
    RankTeam team(2, {.launched = LaunchedRank{.rank = 0, .size = 2, .rendezvous = address, .by = "SIZE"}});
    const auto engine = make_ranked_engine(team, engines, "cuda", {}, 2, 1, two_cards());
    const auto joules = joules_of_ranks(team, 5.0);
    ASSERT_EQ(joules.size(), 2u);
    EXPECT_EQ(joules[0], 5);
    EXPECT_EQ(joules[1], 9);
  }
  other.join();
}

// Breaks when the ranks do not hear which cases share their memory: the place of a case would depend on those before it.
TEST(Ranks, EveryRankExpectsTheCases) {
  std::mutex guard;
  std::map<int, std::vector<std::string>> told;  // by rank
  struct Told : FakeEngine {
    Told(const std::string& name, std::function<void(const std::vector<Case>&)> tell)
        : FakeEngine(name, Fault::kNone), tell_(std::move(tell)) {}
    void expect(const std::vector<Case>& cases) override { tell_(cases); }
    std::function<void(const std::vector<Case>&)> tell_;
  };
  EngineRegistry engines = registry(Fault::kNone, Fault::kNone);
  engines.make = [&](const std::string& name, const EngineOptions& options) -> std::unique_ptr<Engine> {
    const int rank = options.seat != nullptr ? options.seat->group.rank() : -1;
    return std::make_unique<Told>(name, [&, rank](const std::vector<Case>& cases) {
      const std::lock_guard lock(guard);
      for (const Case& c : cases) told[rank].push_back(case_id(c));
    });
  };
  Case a = tiny(2, 1), b = a;
  b.batch = 4;
  Ranks ranks(2, engines, engines);
  ranks.worker->expect({a, b});
  const Record r = ranks.worker->measure_case(a, ranks.worker->validate_case(a));
  ASSERT_EQ(r.status, Status::kOk) << r.reason.value_or("");
  const std::vector<std::string> both = {case_id(a), case_id(b)};
  EXPECT_EQ(told[0], both);
  EXPECT_EQ(told[1], both);
}

// Breaks when a rank's failure is a success of rank 0's, loses its kind, or costs the cases after it.
TEST(Ranks, WhatAnotherRankThrowsIsTheCases) {
  const EngineRegistry good = registry(Fault::kNone, Fault::kNone);
  const EngineRegistry full = registry(Fault::kNone, Fault::kOutOfMemory);
  Ranks ranks(2, good, full);
  Validation v = ranks.worker->validate_case(tiny(2, 1));
  EXPECT_EQ(v.status, Status::kOom);
  EXPECT_NE(v.reason->find("GPU memory of rank 1"), std::string::npos) << *v.reason;
  EXPECT_FALSE(ranks.worker->beyond_use()) << "all ranks have answered: they are in step";
  v = ranks.worker->validate_case(tiny(2, 1));
  EXPECT_EQ(v.status, Status::kOom);
}

// Breaks when replicas, or ranks of one, that compute different things pass.
TEST(Ranks, RanksThatDisagreeAreInvalid) {
  const EngineRegistry good = registry(Fault::kNone, Fault::kNone);
  const EngineRegistry wrong = registry(Fault::kNone, Fault::kToken);
  for (const auto& [c, who] : {std::pair(tiny(1, 2), "dp: replica 1"), {tiny(2, 1), "tp: rank 1"}}) {
    Ranks ranks(2, good, wrong);
    const Validation v = ranks.worker->validate_case(c);
    ASSERT_EQ(v.status, Status::kOk) << v.reason.value_or("");
    const Record r = ranks.worker->measure_case(c, v);
    EXPECT_EQ(r.status, Status::kInvalid);
    EXPECT_TRUE(r.reason.value_or("").starts_with(std::string(who) + " computed another output"))
        << r.reason.value_or("");
  }
}

// Breaks when a launcher's number of ranks and a case's are not held against each other.
TEST(Ranks, ACaseOfAnotherNumberOfRanksIsRefused) {
  const EngineRegistry good = registry(Fault::kNone, Fault::kNone);
  Ranks ranks(2, good, good);
  for (const Case& c : {tiny(1, 1), tiny(2, 2)}) {
    try {
      ranks.worker->validate_case(c);
      FAIL();
    } catch (const UsageError& e) {
      EXPECT_NE(std::string(e.what()).find("SIZE 2"), std::string::npos) << e.what();
    }
  }
  EXPECT_EQ(ranks.worker->validate_case(tiny(2, 1)).status, Status::kOk) << "the ranks are still there";
}

// Breaks when a rank that is gone is not named, or the worker goes on with a team that has lost one.
TEST(Ranks, ALostRankIsNamedAndTheTeamGivenUp) {
  const EngineRegistry good = registry(Fault::kNone, Fault::kNone);
  const std::string address = new_local_address();
  std::thread gone([&] {
    const auto world = join_ranks(address, {.rank = 1, .size = 2, .build = own_build()});
    world->receive_text(0, 10);  // the first call: then it is gone
  });
  WorkerOptions options;
  options.ranks.launched = LaunchedRank{.rank = 0, .size = 2, .rendezvous = address, .by = "SIZE"};
  Worker worker(good, options);
  const Validation v = worker.validate_case(tiny(1, 2));
  gone.join();
  EXPECT_EQ(v.status, Status::kRankLost);
  EXPECT_EQ(v.reason, "rank 1 lost: it closed its connection");
  EXPECT_TRUE(worker.beyond_use()) << "nobody starts a launcher's rank again";
}

// Breaks when a rank that cannot be started is waited for, or its end is told otherwise than that of one which had joined.
TEST(Ranks, ARankThatEndsAtOnceIsNamed) {
  const EngineRegistry good = registry(Fault::kNone, Fault::kNone);
  struct Row {
    std::vector<std::string> command;
    const char* reason;
  };
  for (const Row& row : {Row{{"/bin/false"}, "rank 1 lost: it exited with code 1"},
                         Row{{"/bin/sh", "-c", "kill -9 $$"}, "rank 1 lost: it was killed by SIGKILL"}}) {
    WorkerOptions options;
    options.ranks.command = row.command;
    Worker worker(good, options);
    const Validation v = worker.validate_case(tiny(2, 1));
    EXPECT_EQ(v.status, Status::kRankLost);
    EXPECT_EQ(v.reason, row.reason);
    EXPECT_FALSE(worker.beyond_use()) << "the next case starts new ranks";
  }
}

// Breaks when more ranks than devices start, instead of a skipped case with the count; and when listing starts ranks at all.
TEST(Ranks, TooFewDevicesAreCounted) {
  EngineRegistry three = registry(Fault::kNone, Fault::kNone);
  three.device_usable = [](int device, std::string*) { return device < 4; };
  WorkerOptions options;
  options.engine.device = 1;
  options.ranks.command = {"/bin/false"};
  Worker worker(three, options);
  EXPECT_NO_THROW(worker.check_supported(tiny(2, 1)));
  const Validation v = worker.validate_case(tiny(4, 2));
  EXPECT_EQ(v.status, Status::kSkipped);
  EXPECT_EQ(v.reason, "tp 4 x dp 2 needs 8 devices, there are 3");
  EXPECT_THROW(worker.check_supported(tiny(4, 1)), ImpossibleCase);
}

// Breaks when a rank loads other weights, batches or scales than rank 0.
TEST(Ranks, WhatGoesOverTheWireComesBack) {
  WeightForm form;
  form.precision = Precision::kW4a16;
  form.sparsity = parse_sparsity("2:4+heads:0.25");
  form.calibration = Calibration::kAwq;
  form.head = HeadStorage::k16Bit;
  EXPECT_EQ(form_from_json(form_to_json(form)), form);
  EXPECT_EQ(form_from_json(form_to_json(form.in_fp32())), form.in_fp32());
  const ModelConfig config = load_model("tiny");
  const TransformerBatch batch = make_batch(config, {3, 1, 5}, 7);
  const TransformerBatch back = batch_from_json(batch_to_json(batch));
  EXPECT_EQ(back.ids, batch.ids);
  EXPECT_EQ(back.offsets, batch.offsets);
  EXPECT_EQ(back.lengths, batch.lengths);
  EXPECT_EQ(back.longest, batch.longest);
  const ChannelScales scales{.of = "x", .exponents = {{"a", {1, -2}}}};
  EXPECT_EQ(scales_from_json(scales_to_json(scales)).digest(), scales.digest());
  const Repetition r{.total_us = 1.25, .step_us = 0.5, .first_token_us = {}, .wait_us = 0.125};
  const Repetition same = repetition_from_json(repetition_to_json(r));
  EXPECT_EQ(same.total_us, 1.25);
  EXPECT_EQ(same.step_us, 0.5);
  EXPECT_FALSE(same.first_token_us);
  EXPECT_EQ(same.wait_us, 0.125);
  EXPECT_THROW(throw_error_of(error_to_json(ImpossibleCase("kv: no")), 1), ImpossibleCase);
  EXPECT_THROW(throw_error_of(error_to_json(RankLost(3, "is gone")), 1), RankLost);
  EXPECT_THROW(throw_error_of(error_to_json(DeviceError("no device")), 1), DeviceError);
}

}  // namespace
}  // namespace tandem
