// When a duet ends, what leaves it before, and how it goes on after.
#include <tuple>

#include "harness/base/error.h"
#include "harness/driver/duet/duet.h"
#include "harness/driver/testing/duet_fixture.h"

namespace tandem {
namespace {

using testing::DuetTest;
using testing::Finished;
using testing::json;
using testing::Timed;
using testing::without_times;
namespace fs = std::filesystem;

// Without it a duet would overrun its budget, run pairs that no look sees, or look where time ran out and spend alpha there.
TEST_F(DuetTest, TheBudgetEndsItAtAPlannedLook) {
  fake_gate(9, "same", 4);
  environment_["TANDEM_FAKE_SLEEP_MS"] = "300";
  const Finished f = tandem(duet_args(sweep({1}), {"--budget", "1.8s"}));
  EXPECT_EQ(f.code, 4) << f.err;
  EXPECT_EQ(state()["end"], "budget spent");
  EXPECT_GE(state()["pairs"], 1);
  EXPECT_LT(state()["pairs"], 4);
  for (const json& look : state()["taken"]) EXPECT_EQ(look["of"], 3);
  EXPECT_NE(f.err.find("pairs is beyond the budget of 2 s"), std::string::npos) << f.err;
  EXPECT_LT(state()["spent_s"], 2.8);

  fs::remove_all(run_dir());
  EXPECT_EQ(tandem(duet_args(sweep({1}), {"--budget", "1ms"})).code, 2);
  EXPECT_EQ(tandem(duet_args(sweep({1}), {"--budget", "0.01s"})).code, 4);
  EXPECT_EQ(state()["pairs"], 1) << "one pair in any case";
  EXPECT_EQ(parse_budget_s("8m"), 480);
  EXPECT_EQ(parse_budget_s("1h30m"), 5400);
  EXPECT_EQ(parse_budget_s("90"), 90);
  for (const char* bad : {"", "m", "8x", "-1m", "8m5", "0s", "1e9h"})
    EXPECT_THROW(parse_budget_s(bad), UsageError);
}

// Without it the time of a slow reference would be taken from the pairs, and a short budget measure next to nothing.
TEST_F(DuetTest, CheckingIsNoneOfTheBudget) {
  fake_gate(1);
  environment_["TANDEM_FAKE_CHECK_SLEEP_MS"] = "1500";
  const Finished f = tandem(duet_args(sweep({1}), {"--budget", "1.4s"}));
  EXPECT_EQ(f.code, 0) << f.err;
  EXPECT_EQ(state()["end"], "decided");
  EXPECT_LT(state()["spent_s"], 1.4);
}

// Without it what is decided would take the time of what is not; or be measured again after a kill.
TEST_F(DuetTest, DecidedCasesLeave) {
  fake_gate(9, "same", 4);
  const std::string path = two_groups();
  ASSERT_EQ(tandem(duet_args(path, {"--looks", "1"})).code, 4);
  std::map<int, std::string> id_of;
  for (const Record& r : records("/a")) id_of[r.c.batch] = r.id;
  ASSERT_EQ(id_of.size(), 5u);
  fs::remove_all(run_dir());
  const auto said = [&](int look, std::vector<int> batches, const char* verdict) {
    json cases = json::array({{{"id", id_of[1]}, {"verdict", "unknown"}}});
    for (const int batch : batches) cases.push_back({{"id", id_of[batch]}, {"verdict", verdict}});
    std::ofstream(folder_ / fmt::format("cases-{}", look)) << cases;
  };
  said(1, {2, 4, 5}, "same");
  said(2, {3}, "slower");
  const std::map<int, std::set<int>> wanted = {
      {1, {0, 1, 2, 3, 4, 5}}, {2, {0, 1}}, {3, {0, 1, 2, 3}}, {4, {0, 1}}, {5, {0, 1}}};
  for (const bool in_parts : {false, true}) {
    fs::remove_all(run_dir());
    fs::remove(log());
    if (in_parts) {
      ASSERT_EQ(tandem(duet_args(path, {"--budget", "0.01s"})).code, 4);
      ASSERT_EQ(state()["pairs"], 1);
    }
    const Finished f =
        tandem(duet_args(path, in_parts ? std::vector<std::string>{"--resume"} : std::vector<std::string>{}));
    ASSERT_EQ(f.code, 4) << f.err;
    EXPECT_EQ(state()["end"], "looks spent");
    for (const char* side : {"/a", "/b"}) {
      std::map<int, std::set<int>> pairs;
      for (const Record& r : records(side)) pairs[r.c.batch].insert(r.worker);
      EXPECT_EQ(pairs, wanted);
    }
    EXPECT_EQ(state()["left"].size(), 4u);
    EXPECT_EQ(state()["left"][id_of[3]], json({{"look", 2}, {"verdict", "slower"}}));
  }
}

// Without it a duet that is given more time later would not be the one that had it from the start: its looks would lie
// elsewhere, or spend alpha twice.
TEST_F(DuetTest, AnExtendedDuetEqualsOneRunThrough) {
  fake_gate(9, "same", 4);
  const std::string path = two_groups();
  std::ofstream(folder_ / "cases-1") << R"([{"id": "none", "verdict": "same"}])";
  const auto order = [&] {
    std::vector<std::tuple<std::string, int, std::string>> found;
    for (const Timed& t : timed()) found.emplace_back(t.id, t.pair, t.side);
    return found;
  };
  ASSERT_EQ(tandem(duet_args(path)).code, 4);
  const json through = without_times(state());
  const auto measured = order();
  struct Row {
    std::vector<std::string> first, more;
    const char* end;
  };
  for (const Row& row : {Row{{"--looks", "2"}, {"--resume"}, "looks spent"},
                         Row{{"--budget", "0.01s"}, {"--resume", "--budget", "5m"}, "budget spent"}}) {
    fs::remove_all(run_dir());
    fs::remove(log());
    ASSERT_EQ(tandem(duet_args(path, row.first)).code, 4);
    EXPECT_EQ(state()["end"], row.end);
    EXPECT_LT(state()["pairs"], 6);
    const size_t before = timed().size();
    ASSERT_EQ(tandem(duet_args(path,
                               [&] {
                                 std::vector<std::string> same = row.first;
                                 same.emplace_back("--resume");
                                 return same;
                               }()))
                  .code,
              4);
    EXPECT_EQ(timed().size(), before) << "the same words ask for nothing more";
    ASSERT_EQ(tandem(duet_args(path, row.more)).code, 4);
    EXPECT_EQ(without_times(state()), through);
    EXPECT_EQ(order(), measured);
  }
  fs::remove_all(run_dir());
  ASSERT_EQ(tandem(duet_args(path, {"--looks", "1"})).code, 4);
  const Finished f = tandem(duet_args(path, {"--resume"}));
  EXPECT_EQ(f.code, 2);
  EXPECT_NE(f.err.find("has spent all of its alpha at its one look"), std::string::npos) << f.err;
}

}  // namespace
}  // namespace tandem
