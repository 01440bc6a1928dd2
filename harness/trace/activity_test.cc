#include "harness/trace/activity.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace tandem {
namespace {

Activity kernel(int64_t start, int64_t end, std::optional<Phase> phase = {}, int stream = 1) {
  return {.kind = ActivityKind::kKernel,
          .name = "k",
          .start_ns = start,
          .end_ns = end,
          .stream = stream,
          .graph_node = 0,
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
  EXPECT_FALSE((Trace{.activities = {}, .dropped = 1, .untimed = 0}).complete());
  EXPECT_FALSE((Trace{.activities = {}, .dropped = 0, .untimed = 2}).complete());
}

// Breaks when the timeline is not JSON that the viewer reads, or loses a row.
TEST(Activity, ChromeTraceHoldsStreamsAndPhases) {
  const auto j = nlohmann::json::parse(
      chrome_trace({.activities = {kernel(1000, 3500, kUp)}, .dropped = 0, .untimed = 0}));
  ASSERT_EQ(j.size(), 2u);
  EXPECT_EQ(j[0]["tid"], "stream 1");
  EXPECT_DOUBLE_EQ(j[0]["ts"], 1.0);
  EXPECT_DOUBLE_EQ(j[0]["dur"], 2.5);
  EXPECT_EQ(j[1]["name"], "decoder/3/ffn.up");
}

}  // namespace
}  // namespace tandem
