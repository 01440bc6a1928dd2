#include "harness/trace/activity.h"

#include <gtest/gtest.h>

namespace tandem {
namespace {

Activity kernel(int64_t start, int64_t end, std::optional<Phase> phase = {}, int stream = 1) {
  return {.kind = ActivityKind::kKernel,
          .name = "k",
          .start_ns = start,
          .end_ns = end,
          .stream = stream,
          .phase = phase};
}
constexpr Phase kHead{PhaseKind::kHead, Side::kDecoder, -1};
constexpr Phase kUp{PhaseKind::kFfnUp, Side::kDecoder, 3};

// Breaks when overlapping kernels are counted twice.
TEST(Activity, BusyIsAUnion) {
  const std::vector<Activity> a = {kernel(0, 10), kernel(5, 15), kernel(20, 30), kernel(22, 25)};
  EXPECT_EQ(busy_ns(a), 25);
  EXPECT_EQ(busy_ns({}), 0);
}

// Breaks when phases do not sum to busy, when an instant goes to the later of two, or orphans vanish.
TEST(Activity, PhasesSumToBusyAndOrphansShow) {
  const std::vector<Activity> a = {kernel(5, 15, kUp), kernel(0, 10, kHead, 2), kernel(40, 47)};
  const auto rows = busy_by_phase(a);
  ASSERT_EQ(rows.size(), 3u);
  int64_t sum = 0;
  for (const auto& row : rows) sum += row.busy_ns;
  EXPECT_EQ(sum, busy_ns(a));
  EXPECT_EQ(rows[0].phase, kHead);
  EXPECT_EQ(rows[0].busy_ns, 10);
  EXPECT_FALSE(rows[1].phase);
  EXPECT_EQ(rows[1].busy_ns, 7);
  EXPECT_EQ(rows[2].busy_ns, 5);
}

// Breaks when gaps and busy do not tile the span.
TEST(Activity, GapsAndBusyTileTheSpan) {
  const std::vector<Activity> a = {kernel(100, 110), kernel(130, 140), kernel(105, 120), kernel(200, 201)};
  const auto g = gaps(a);
  ASSERT_EQ(g.size(), 2u);
  EXPECT_EQ(g[0].start_ns, 120);
  EXPECT_EQ(g[0].end_ns, 130);
  int64_t idle = 0;
  for (const Gap& gap : g) idle += gap.end_ns - gap.start_ns;
  EXPECT_EQ(idle + busy_ns(a), 201 - 100);
}

// Breaks when lost records leave a trace that calls itself complete.
TEST(Activity, LossesMakeATraceIncomplete) {
  EXPECT_TRUE(Trace{}.complete());
  EXPECT_FALSE((Trace{.dropped = 1}).complete());
  EXPECT_FALSE((Trace{.untimed = 2}).complete());
  EXPECT_FALSE((Trace{.missing = 1}).complete());
}

// Breaks when a kernel without a phase counts as attributed.
TEST(Activity, AttributionIsAShareOfBusyTime) {
  const std::vector<Activity> a = {kernel(0, 90, kUp), kernel(100, 110)};
  EXPECT_DOUBLE_EQ(*attributed_fraction(a), 0.9);
  EXPECT_FALSE(attributed_fraction({}));
}

Activity node(int64_t start, uint64_t launch, int64_t promised) {
  Activity a = kernel(start, start + 5, kUp);
  a.graph_node = static_cast<uint64_t>(start) + 1;
  a.graph_nodes = promised;
  a.correlation = launch;
  return a;
}

// Breaks when a graph launch that left fewer records than it has nodes passes for whole.
TEST(Activity, RecordsAreNodesTimesReplays) {
  EXPECT_EQ(missing_records(std::vector{node(0, 1, 2), node(10, 1, 2), node(20, 2, 2), node(30, 2, 2)}), 0);
  EXPECT_EQ(missing_records(std::vector{node(0, 1, 2), node(10, 1, 2), node(20, 2, 2)}), 1);
  EXPECT_EQ(missing_records(std::vector{kernel(0, 5), node(20, 2, 0)}), 0);
}

// Breaks when setting a replay's state up counts as the replay, or a replay without graphs loses its start.
TEST(Activity, AReplayBeginsWithItsFirstGraph) {
  const std::vector<Activity> a = {kernel(10, 12), node(20, 1, 1), kernel(30, 33), node(50, 2, 1)};
  const Replay replay{.start_ns = 5, .end_ns = 40, .event_us = 0};
  const ReplayWork first = work_of(replay, {.activities = a});
  ASSERT_EQ(first.activities.size(), 2u);
  EXPECT_EQ(first.activities[0].start_ns, 20);
  EXPECT_EQ(first.end_ns - first.begin_ns, 13);
  EXPECT_EQ(work_of(replay, {.activities = {kernel(10, 12), kernel(20, 22)}}).activities.size(), 2u);
}

Activity enqueued(int64_t start, int64_t end, uint64_t correlation) {
  Activity a = kernel(start, end, kUp);
  a.correlation = correlation;
  return a;
}

// Breaks when the time between an event and the work after it belongs to no gap, or set-up counts.
TEST(Activity, EventsSayWhereAReplayWasTimed) {
  Trace trace{
      .activities = {enqueued(10, 15, 1), enqueued(20, 25, 3), enqueued(30, 33, 4), enqueued(38, 39, 6)},
      .calls = {{"cudaLaunchKernel", 6, 8, 1},
                {"cudaEventRecord_v3020", 9, 13, 2},
                {"cudaGraphLaunch_v10000", 14, 18, 3},
                {"cudaEventRecord_v3020", 18, 19, 5}}};
  const Replay replay{.start_ns = 5, .end_ns = 40, .event_us = 0};
  const ReplayWork work = work_of(replay, trace);
  ASSERT_EQ(work.activities.size(), 2u);
  EXPECT_EQ(work.begin_ns, 15) << "the event waits for what was enqueued before it";
  EXPECT_EQ(idle_ns(work), 5 + 5);
  EXPECT_EQ(idle_ns(work) + busy_ns(work.activities), 33 - 15);
  trace.activities[0].end_ns = 11;
  EXPECT_EQ(work_of(replay, trace).begin_ns, 13) << "or for the call that records it";
}

}  // namespace
}  // namespace tandem
