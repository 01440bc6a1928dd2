#include "harness/trace/trace_file.h"

#include <gtest/gtest.h>

#include "harness/base/error.h"

namespace tandem {
namespace {

// Breaks when columns and tables of the file no longer say what was recorded, or times are not from the first record.
TEST(TraceFile, ColumnsGiveTheRecordsBack) {
  Trace trace;
  trace.activities = {
      {.name = "b",
       .start_ns = 5000,
       .end_ns = 5100,
       .stream = 7,
       .graph_node = 3,
       .correlation = 9,
       .phase = Phase{PhaseKind::kHead, Side::kDecoder, -1}},
      {.kind = ActivityKind::kCopy, .name = "copy", .start_ns = 5200, .end_ns = 5300, .bytes = 64}};
  trace.calls = {{"launch", 4000, 4500, 9}};
  trace.dropped = 2;
  const std::vector<Replay> replays = {{.start_ns = 3900, .end_ns = 6000, .event_us = 0.4}};
  const auto j = trace_json(trace, replays, {{"pass", "node"}});
  EXPECT_EQ(j["format"], "tandem-trace");
  EXPECT_EQ(j["pass"], "node");
  EXPECT_EQ(j["complete"], false);
  EXPECT_EQ(j["names"][j["activities"]["name"][0].get<size_t>()], "b");
  EXPECT_EQ(j["activities"]["kind"][1], "copy");
  EXPECT_EQ(j["activities"]["start"][0], 1100);
  EXPECT_EQ(j["activities"]["duration"][1], 100);
  EXPECT_EQ(j["phases"][j["activities"]["phase"][0].get<size_t>()]["phase"], "head");
  EXPECT_TRUE(j["activities"]["phase"][1].is_null());
  EXPECT_EQ(j["calls"]["correlation"][0], 9);
  EXPECT_EQ(j["replays"][0]["start"], 0);
}

// Breaks when a trace that could not be written is taken for one.
TEST(TraceFile, ADiskThatRefusesIsAnError) {
  EXPECT_THROW(write_trace("/nonexistent/trace.json", {}), IoError);
}

}  // namespace
}  // namespace tandem
