#include "harness/trace/tracer.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "harness/base/error.h"

namespace tandem {
namespace {

/// A tracer's table that plays records back and writes down what it was told.
struct Recorded {
  std::vector<TandemTraceRecord> records;
  std::vector<uint32_t> entered;
  std::vector<std::string> ranges;
  uint64_t dropped = 0;
  std::string refuse_open, refuse_counters;
  int left = 0, passes = 0;
};
Recorded played;

int fail(const std::string& why, char* error, size_t bytes) {
  if (why.empty()) return 0;
  std::snprintf(error, bytes, "%s", why.c_str());
  return 1;
}

const TandemTracer kTable = {
    .abi = kTandemTracerAbi,
    .open = [](const TandemTracerConfig*, char* e, size_t n) { return fail(played.refuse_open, e, n); },
    .enter_phase = [](uint32_t phase) { played.entered.push_back(phase); },
    .leave_phase = [] { ++played.left; },
    .start = [](char*, size_t) { return 0; },
    .stop =
        [](void (*sink)(void*, const TandemTraceRecord*), void* context, TandemTraceTotals* totals, char*,
           size_t) {
          for (const auto& r : played.records) sink(context, &r);
          *totals = {.dropped = played.dropped, .overhead_ns = 5};
          return 0;
        },
    .open_counters = [](const char* const*, size_t, size_t, char* e,
                        size_t n) { return fail(played.refuse_counters, e, n); },
    .begin_pass = [](char*, size_t) { return 0; },
    .push_range =
        [](const char* name, char*, size_t) {
          played.ranges.emplace_back(name);
          return 0;
        },
    .pop_range = [](char*, size_t) { return 0; },
    .end_pass =
        [](int* done, char*, size_t) {
          *done = ++played.passes == 2 ? 1 : 0;
          return 0;
        },
    .read_counters =
        [](void (*sink)(void*, const TandemCounterRange*), void* context, char*, size_t) {
          const double values[] = {1.0, 2.0};
          const TandemCounterRange range = {.name = "decoder/head", .values = values, .count = 2};
          sink(context, &range);
          return 0;
        },
};

TandemTraceRecord record(uint32_t kind, const char* name, uint64_t start, uint64_t end) {
  return {.kind = kind,
          .name = name,
          .start_ns = start,
          .end_ns = end,
          .bytes = 0,
          .graph_node = 0,
          .graph_nodes = 0,
          .stream = 1,
          .correlation = 4,
          .phase = 0};
}

class TracerTest : public testing::Test {
 protected:
  void SetUp() override { played = {}; }
};

// Breaks when a phase changes on its way through the table.
TEST_F(TracerTest, TagsRoundTrip) {
  for (int kind = 0; kind < kPhaseKinds; ++kind) {
    for (const Side side : {Side::kEncoder, Side::kDecoder}) {
      for (const int layer : {-1, 0, 47}) {
        const Phase phase{static_cast<PhaseKind>(kind), side, layer};
        EXPECT_EQ(phase_of_tag(phase_tag(phase)), phase);
      }
    }
  }
  EXPECT_FALSE(phase_of_tag(0));
}

// Breaks when ranges of the engine do not reach the tracer, or still do after it has gone.
TEST_F(TracerTest, PhaseRangesReachTheTable) {
  const Phase phase{PhaseKind::kFfnUp, Side::kEncoder, 2};
  {
    const Tracer tracer(&kTable);
    const PhaseRange range(phase);
  }
  { const PhaseRange range(phase); }
  ASSERT_EQ(played.entered.size(), 1u);
  EXPECT_EQ(phase_of_tag(played.entered[0]), phase);
  EXPECT_EQ(played.left, 1);
}

// Breaks when records end up in the wrong list, names stay mangled, or losses are forgotten.
TEST_F(TracerTest, RecordsBecomeATrace) {
  TandemTraceRecord kernel = record(kTandemKernel, "_ZN6tandem4testEv", 20, 30);
  kernel.graph_node = 8;
  kernel.graph_nodes = 3;
  kernel.phase = phase_tag({PhaseKind::kHead, Side::kDecoder, -1});
  played.records = {kernel, record(kTandemKernel, "ncclDevKernel_AllReduce", 10, 15),
                    record(kTandemKernel, "late", 0, 0), record(kTandemCall, "cudaGraphLaunch", 1, 2),
                    record(kTandemMarker, "range", 1, 9)};
  played.dropped = 3;
  Tracer tracer(&kTable);
  tracer.start();
  const Trace trace = tracer.stop();
  ASSERT_EQ(trace.activities.size(), 2u);
  EXPECT_EQ(trace.activities[0].kind, ActivityKind::kCommunication);
  EXPECT_EQ(trace.activities[1].name, "tandem::test()");
  EXPECT_EQ(trace.activities[1].phase->kind, PhaseKind::kHead);
  EXPECT_EQ(trace.calls.size(), 1u);
  EXPECT_EQ(trace.markers.size(), 1u);
  EXPECT_EQ(trace.untimed, 1);
  EXPECT_EQ(trace.dropped, 3);
  EXPECT_EQ(trace.missing, 2);
  EXPECT_FALSE(trace.complete());
}

// Breaks when a profiler that another tool owns ends the process, or loses its reason.
TEST_F(TracerTest, AnOwnedProfilerStepsAside) {
  played.refuse_open = "another profiler owns CUPTI in this process (Nsight Systems)";
  Tracer tracer(&kTable);
  EXPECT_NE(tracer.unavailable().find("Nsight Systems"), std::string::npos);
  EXPECT_THROW(tracer.start(), Error);
  { const PhaseRange range({PhaseKind::kHead, Side::kDecoder, -1}); }
  EXPECT_TRUE(played.entered.empty());
}

// Breaks when an object of another build is called through a table it does not have.
TEST_F(TracerTest, AnotherInterfaceIsRefused) {
  TandemTracer other = kTable;
  other.abi = kTandemTracerAbi + 1;
  EXPECT_NE(Tracer(&other).unavailable().find("another build"), std::string::npos);
}

// Breaks when a missing object is an exception, or another library is taken for a tracer.
TEST_F(TracerTest, AMissingObjectSaysSo) {
  ::setenv("TANDEM_TRACER", "/nowhere/libtandem_cupti.so", 1);
  EXPECT_NE(load_tracer()->unavailable().find("/nowhere/libtandem_cupti.so"), std::string::npos);
  ::setenv("TANDEM_TRACER", "/proc/self/exe", 1);
  EXPECT_FALSE(load_tracer()->unavailable().empty());
  ::unsetenv("TANDEM_TRACER");
}

// Breaks when counters are not taken phase by phase, layers apart, or passes end too early.
TEST_F(TracerTest, CountersFollowThePhases) {
  Tracer tracer(&kTable);
  tracer.open_counters({"a", "b"}, 8);
  int passes = 0;
  bool more = true;
  while (more) {
    tracer.begin_pass(0, 7);
    { const PhaseRange range({PhaseKind::kFfnUp, Side::kEncoder, 2}); }
    tracer.push_range("replay");
    { const PhaseRange inside({PhaseKind::kHead, Side::kDecoder, -1}); }
    tracer.pop_range();
    more = tracer.end_pass();
    ++passes;
  }
  EXPECT_EQ(passes, 2);
  EXPECT_EQ(played.ranges,
            (std::vector<std::string>{"encoder/ffn.up", "replay", "encoder/ffn.up", "replay"}));
  EXPECT_EQ(tracer.read_counters()[0].values, (std::vector<double>{1, 2}));
}

// Breaks when a generation of many steps pushes more ranges in a pass than counters were opened for: CUPTI dies of that.
TEST_F(TracerTest, CountersTakeThePhasesInParts) {
  Tracer tracer(&kTable);
  const auto work = [] {
    for (int layer = 0; layer < 5; ++layer) {
      const PhaseRange range({layer % 2 == 0 ? PhaseKind::kFfnUp : PhaseKind::kHead, Side::kDecoder, layer});
    }
  };
  EXPECT_EQ(tracer.count_ranges(work), 5);
  EXPECT_TRUE(played.ranges.empty()) << "counting opens none";
  for (const auto& [first, ranges] : {std::pair{0, 2u}, {2, 2u}, {4, 1u}}) {
    played.ranges.clear();
    tracer.begin_pass(first, 2);
    work();
    tracer.end_pass();
    EXPECT_EQ(played.ranges.size(), ranges) << first;
  }
  EXPECT_EQ(played.ranges, std::vector<std::string>{"decoder/ffn.up"});
  { const PhaseRange after({PhaseKind::kHead, Side::kDecoder, -1}); }
  EXPECT_EQ(played.entered.size(), 1u) << "after the passes phases are the trace's again";
}

// Breaks when missing permission is not an answer but a crash.
TEST_F(TracerTest, RefusedCountersGiveTheirReason) {
  played.refuse_counters = "insufficient privileges";
  Tracer tracer(&kTable);
  try {
    tracer.open_counters({"a"}, 1);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("insufficient privileges"), std::string::npos);
  }
}

}  // namespace
}  // namespace tandem
