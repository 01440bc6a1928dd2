// `tandem duet` from the outside, with fake suites and, where the gate's word does not matter, a fake gate.
#include "harness/driver/duet/duet.h"

#include <random>

#include "harness/base/error.h"
#include "harness/base/testing/test_seed.h"
#include "harness/driver/duet/report_tool.h"
#include "harness/driver/testing/duet_fixture.h"

namespace tandem {
namespace {

using testing::DuetTest;
using testing::Finished;
using testing::json;
using testing::Timed;
using testing::without_times;
namespace fs = std::filesystem;

// Without it drift would fall on one side, or the sides would meet the cases in different states.
TEST_F(DuetTest, PairsAreInterleavedInADrawnOrder) {
  fake_gate(3);
  const Finished f = tandem(duet_args(two_groups()));
  ASSERT_EQ(f.code, 0) << f.err;
  EXPECT_EQ(f.out, "table\n");
  const auto all = timed();
  ASSERT_EQ(all.size(), 6u * 2 * 5) << "six pairs of two groups of three and two cases";
  // Walk over the processes: runs of equal side.
  struct Process {
    int pair;
    std::string side;
    std::vector<std::string> ids;
  };
  std::vector<Process> processes;
  std::set<std::string> decoder;
  for (const Record& r : records("/a")) {
    if (r.c.suite == Suite::kDecoder) decoder.insert(r.id);
  }
  for (const Timed& t : all) {
    const bool more = !processes.empty() && processes.back().side == t.side &&
                      processes.back().pair == t.pair &&
                      decoder.contains(processes.back().ids[0]) == decoder.contains(t.id);
    if (!more) processes.push_back({t.pair, t.side, {}});
    processes.back().ids.push_back(t.id);
  }
  ASSERT_EQ(processes.size(), 6u * 2 * 2);
  std::map<std::pair<int, bool>, std::string> first;
  std::set<std::vector<std::string>> orders;
  for (size_t i = 0; i < processes.size(); i += 2) {
    const Process &one = processes[i], &other = processes[i + 1];
    EXPECT_EQ(one.pair, other.pair);
    EXPECT_NE(one.side, other.side);
    EXPECT_EQ(one.ids, other.ids) << "the same cases in the same order";
    first[{one.pair, decoder.contains(one.ids[0])}] = one.side;
    orders.insert(one.ids);
  }
  EXPECT_GT(orders.size(), 2u) << "the order of cases is drawn anew for each pair";
  for (const json& turn : state()["order"]) {
    const bool is_decoder =
        state()["groups"][turn["group"].get<int>()].get<std::string>().starts_with("decoder");
    EXPECT_EQ((first[{turn["pair"], is_decoder}]), turn["first"].get<std::string>());
    const int side =
        first_side(state()["seed"].get<uint64_t>(), turn["pair"].get<int>(), turn["group"].get<int>());
    EXPECT_EQ(turn["first"].get<std::string>(), side == 0 ? "a" : "b");
  }
  // What the report needs to say what being second costs.
  ASSERT_EQ(state()["members"].size(), 2u);
  for (const json& turn : state()["order"]) {
    const auto members = state()["members"][turn["group"].get<int>()].get<std::set<std::string>>();
    const bool is_decoder = decoder.contains(*members.begin());
    EXPECT_EQ(members.size(), is_decoder ? 3u : 2u);
    EXPECT_EQ((first[{turn["pair"], is_decoder}]), turn["first"].get<std::string>());
  }
}

// Without it the order of one pair would tell that of another: noise that lasts over two pairs, or a change of the card that
// two groups see, would have the same sign in both, and the gate would ring more often than it says.
TEST(FirstSide, IsDrawnForEachPairGroupAndSeedAlone) {
  constexpr int kDraws = 2000, kFarOff = 5 * 22;  // of 1000 in 2000 draws: standard deviation 22
  const auto near_half = [&](auto&& hit) {
    int hits = 0;
    for (int i = 0; i < kDraws; ++i) hits += hit(i) ? 1 : 0;
    EXPECT_NEAR(hits, kDraws / 2, kFarOff);
  };
  const auto a_first = [](uint64_t seed, int pair, int group) { return first_side(seed, pair, group) == 0; };
  for (const uint64_t seed : {0u, 9u}) {
    near_half([&](int i) { return a_first(seed, i, 0); });
    near_half([&](int i) { return a_first(seed, 0, i); });
    for (const int apart : {1, 2, 3}) {
      near_half([&](int i) { return a_first(seed, i, 0) == a_first(seed, i + apart, 0); });
      near_half([&](int i) { return a_first(seed, i, 0) == a_first(seed, i, apart); });
      near_half([&](int i) { return a_first(seed, i, 0) == a_first(seed, i + apart, 1); });
      near_half([&](int i) { return a_first(seed, i, 0) == a_first(seed + apart, i, 0); });
    }
    near_half([&](int i) { return a_first(seed, 2 * i, 0) == a_first(seed, 2 * i + 1, 0); });
  }
}

// Without it a duet would go on after the verdicts are there, end with another code, or hide a look that it took.
TEST_F(DuetTest, StopsAtTheGatesWord) {
  struct Row {
    int decides;
    const char* verdict;
    int code, pairs;
    const char* end;
  };
  for (const Row& row : {Row{1, "same", 0, 2, "decided"}, Row{2, "slower", 1, 4, "decided"},
                         Row{9, "same", 4, 6, "looks spent"}}) {
    fs::remove_all(run_dir());
    fs::remove(folder_ / "asked");
    fake_gate(row.decides, row.verdict, row.decides == 9 ? 4 : row.code);
    const Finished f = tandem(duet_args(sweep({1, 2})));
    EXPECT_EQ(f.code, row.code) << f.err;
    EXPECT_EQ(state()["pairs"], row.pairs);
    EXPECT_EQ(state()["end"], row.end);
    ASSERT_EQ(state()["taken"].size(), std::min<size_t>(row.decides, 3));
    EXPECT_EQ(records("/a").size(), 2u * row.pairs);
    const std::string asked = read_file(folder_ / "asked");
    EXPECT_NE(asked.find("gate --plan 2 --look 1/3 --json"), std::string::npos) << asked;
    EXPECT_NE(asked.find(fmt::format("gate {} --look 1/3 --json", run_dir())), std::string::npos) << asked;
    const Finished again = tandem(duet_args(sweep({1, 2}), {"--resume"}));
    EXPECT_EQ(again.code, row.code) << "a duet that has ended says again what it found: " << again.err;
    EXPECT_EQ(records("/a").size(), 2u * row.pairs);
  }
}

// Without it a kill would lose pairs, measure something twice, or make a pair of halves that lie hours apart.
TEST_F(DuetTest, SigkillAtRandomMomentsAndResume) {
  fake_gate(9, "same", 4);
  std::mt19937_64 random(test_seed());
  environment_["TANDEM_FAKE_SLEEP_MS"] = "5";
  const char* wanted = std::getenv("TANDEM_TEST_KILLS");
  const int enough = wanted != nullptr ? std::atoi(wanted) : 20;
  const std::string path = two_groups();
  int kills = 0, broken = 0;
  while (kills < enough) {
    fs::remove_all(run_dir());
    fs::remove(log());
    Finished f;
    f.signal = SIGKILL;
    int in_this_duet = 0;
    while (f.signal != 0) {
      const bool resume = fs::exists(run_dir());
      const pid_t pid =
          start(duet_args(path, resume ? std::vector<std::string>{"--resume"} : std::vector<std::string>{}));
      const int wait_ms = std::uniform_int_distribution<int>(1, 200 + 20 * in_this_duet++)(random);
      std::this_thread::sleep_for(std::chrono::milliseconds(wait_ms));
      ::kill(pid, SIGKILL);
      f = wait_for(pid);
      if (f.signal == 0) break;
      ++kills;
      ASSERT_TRUE(soon([&] { return workers_gone(); }));
    }
    ASSERT_EQ(f.code, 4) << f.err;
    const json s = state();
    EXPECT_EQ(s["pairs"], 6);
    EXPECT_EQ(s["end"], "looks spent");
    std::map<std::string, std::set<int>> pairs_of[2];
    for (const int side : {0, 1}) {
      std::set<std::pair<std::string, int>> keys;
      for (const Record& r : records(side == 0 ? "/a" : "/b")) {
        EXPECT_TRUE(keys.emplace(r.id, r.worker).second) << "two records of one key";
        pairs_of[side][r.id].insert(r.worker);
      }
    }
    std::set<std::pair<int, int>> cut;
    for (const json& turn : s["order"]) {
      if (turn.value("broken", false)) cut.emplace(turn["pair"], turn["group"]);
    }
    broken += static_cast<int>(cut.size());
    for (const int pair : {0, 1, 2, 3, 4, 5}) {
      for (const auto& [id, pairs] : pairs_of[0]) {
        if (pairs.contains(pair) == pairs_of[1][id].contains(pair)) continue;
        EXPECT_TRUE(cut.contains({pair, 0}) || cut.contains({pair, 1}))
            << "half a pair that nobody speaks of";
      }
    }
  }
  std::cout << kills << " kills, " << broken << " pairs cut apart\n";
}

// Without it two settings of one build could not be told apart, or a setting would not be in the record.
TEST_F(DuetTest, SidesHaveSettingsOfTheirOwn) {
  fake_gate(1);
  std::vector<std::string> args = {
      "duet", sweep({1, 2}), "--out",         run_dir(), "--engine",   "reference", "--looks",
      "3",    "--a-set",     "memory=level2", "--b-set", "memory=gpu", "--b-env",   "TANDEM_FAKE_FACTOR=2",
      "--a",  bin(),         "--sample",      "0.2:0.4"};
  args.insert(args.end(), {"--b", bin()});
  const Finished f = tandem(args);
  ASSERT_EQ(f.code, 0) << f.err;
  for (const Record& r : records("/a")) EXPECT_EQ(r.c.memory, "level2");
  for (const Record& r : records("/b")) {
    EXPECT_EQ(r.c.memory, "gpu");
    EXPECT_EQ(r.summary->median_us, 200 * r.c.batch + 3);
  }
  EXPECT_EQ(state()["axes"], json({"memory"}));
  const json env = json::parse(read_file(run_dir() + "/b/environment.json"))["env"];
  EXPECT_EQ(env["TANDEM_FAKE_FACTOR"], "2");
  EXPECT_EQ(env["TANDEM_SAMPLE_SECONDS"], "0.2:0.4");
}

// Without it two searches of one product may end differently, and an unchanged build would seem to have changed.
TEST_F(DuetTest, SideBStartsFromTheChoicesOfA) {
  fake_gate(1);
  environment_["TANDEM_FAKE_CHOICES"] = "1";
  auto choices = [&](const char* side) { return read_file(run_dir() + side + "/gemm-choices.json"); };
  ASSERT_EQ(tandem(duet_args(sweep({1, 2}))).code, 0);
  EXPECT_EQ(choices("/a"), choices("/b"));
  fs::remove_all(run_dir());
  ASSERT_EQ(tandem(duet_args(sweep({1, 2}), {"--own-choices", "--b-env", "OMP_NUM_THREADS=1"})).code, 0);
  EXPECT_NE(choices("/a"), choices("/b"));
}

// Without it a case that one side lost would be measured for nothing in every pair, or never be missed.
TEST_F(DuetTest, WhatOneSideLostIsMeasuredOnceOnTheOther) {
  fake_gate(1);
  const Finished f = tandem(duet_args(sweep({1, 2}), {"--b-env", "TANDEM_FAKE_FAULTS=2:invalid"}));
  EXPECT_EQ(f.code, 0) << f.err;
  std::map<int, int> in_a;
  for (const Record& r : records("/a")) ++in_a[r.c.batch];
  EXPECT_EQ(in_a, (std::map<int, int>{{1, 2}, {2, 1}}));
  ASSERT_EQ(tandem(duet_args(sweep({1, 2}), {"--resume"})).code, 2) << "another --b-env";
}

// Without it a machine without a card would run a gate of nothing, or end with a code that says something else.
TEST_F(DuetTest, NothingToMeasureIsSaid) {
  fake_gate(1);
  Finished f = tandem(duet_args(sweep({1}, {{"needs", "device"}})));
  EXPECT_EQ(f.code, 3) << f.err;
  EXPECT_NE(f.err.find("no case can be measured here: needs a CUDA device"), std::string::npos) << f.err;
  fs::remove_all(run_dir());
  environment_["TANDEM_FAKE_FAULTS"] = "1:invalid";
  f = tandem(duet_args(sweep({1})));
  EXPECT_EQ(f.code, 2) << f.err;
  EXPECT_NE(f.err.find("no case can be measured on either side: decoder/"), std::string::npos) << f.err;
  EXPECT_TRUE(timed().empty());
}

// Without it a full disk would lose a duet, or end it in something else than one line that says how to go on.
TEST_F(DuetTest, AFullDiskIsOneLineAndNothingIsLost) {
  fake_gate(9, "same", 4);
  const Finished f = wait_for(start(duet_args(two_groups()), 12288));
  EXPECT_EQ(f.code, 1) << f.err;
  EXPECT_NE(f.err.find("File too large; the "), std::string::npos) << f.err;
  EXPECT_NE(f.err.find(fmt::format("continue with: {} duet {} --out {} --resume --a ", TANDEM_BINARY,
                                   two_groups(), run_dir())),
            std::string::npos)
      << f.err;
  const size_t before = records("/a").size() + records("/b").size();
  EXPECT_GT(before, 0u);
  EXPECT_EQ(tandem(duet_args(two_groups(), {"--resume"})).code, 4);
  EXPECT_EQ(state()["end"], "looks spent");
  EXPECT_GT(records("/a").size() + records("/b").size(), before);
}

// Without it a typing error would cost minutes, or end without a word on what is wrong.
TEST_F(DuetTest, BadInputIsRefusedBeforeAnythingRuns) {
  const std::string good = sweep({1});
  fake_gate(1);
  struct Row {
    std::vector<std::string> more;
    const char* message;
  };
  const std::vector<Row> rows = {
      {{"--budget", "soon"}, "--budget: 'soon' is not allowed; a time such as 8m"},
      {{"--looks", "0"}, "--looks"},
      {{"--sample", "1"}, "--sample: '1' is not allowed; seconds MIN:MAX"},
      {{"--a-set", "kernel"}, "--a-set: 'kernel' is not allowed; NAME=VALUE"},
      {{"--a-set", "colour=red"}, "unknown axis 'colour'"},
      {{"--b-set", "kernel=best"}, "kernel: 'best' is not allowed"},
      {{"--a-env", "=1"}, "--a-env: '=1' is not allowed"},
      {{"--resume"}, "does not exist"},
      {{"--filter", "nothing"}, "matches none"},
  };
  for (const Row& row : rows) {
    const Finished f = tandem(duet_args(good, row.more));
    EXPECT_EQ(f.code, 2) << f.err;
    EXPECT_NE(f.err.find(row.message), std::string::npos)
        << "expected: " << row.message << "\ngot: " << f.err;
    EXPECT_TRUE(log_lines().empty());
  }
  Finished f = tandem({"duet", good, "--engine", "reference"});
  EXPECT_EQ(f.code, 2);
  EXPECT_NE(f.err.find("nothing to compare"), std::string::npos) << f.err;
  fs::create_directories(run_dir());
  std::ofstream(run_dir() + "/thesis.txt") << "x";
  f = tandem(duet_args(good));
  EXPECT_EQ(f.code, 2);
  EXPECT_NE(f.err.find("is not empty and not a duet: it holds 'thesis.txt'"), std::string::npos) << f.err;
}

// Without it a CI would read a report tool that is broken, or dies, as "B is slower".
TEST_F(DuetTest, AToolThatHasNoAnswerIsNoVerdict) {
  const std::string good = sweep({1});
  fake_gate(1);  // the folder of tools
  const std::string plan = R"(case "$*" in *--plan*) echo '{"pairs": [2, 4, 6]}'; exit 0 ;; esac)";
  struct Row {
    std::string script;
    const char* message;
  };
  for (const Row& row : {Row{"echo broken >&2\nexit 1", "gate --plan exited with code 1: broken"},
                         Row{"kill -9 $$", "gate killed by SIGKILL"},
                         Row{plan + "\necho broken >&2\nexit 1", "gate exited with code 1: broken"},
                         Row{plan + "\nkill -9 $$", "gate killed by SIGKILL"}}) {
    fs::remove_all(run_dir());
    std::ofstream(folder_ / "tools" / "tandem-report") << "#!/bin/sh\n" << row.script << "\n";
    environment_["PATH"] = (folder_ / "tools").string() + ":" + std::getenv("PATH");
    const Finished f = tandem(duet_args(good));
    EXPECT_EQ(f.code, 70) << f.err;
    EXPECT_NE(f.err.find(row.message), std::string::npos) << f.err;
  }
}

// Without it whoever lacks the tool is told that some file is not there.
TEST_F(DuetTest, SaysWhereTheGateWasLookedFor) {
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", "/nowhere", 1);
  try {
    ReportTool tool(bin());
    ADD_FAILURE() << "found " << tool.program();
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("tandem-report is not on PATH, not in " + bin().string()),
              std::string::npos);
  }
  fs::create_directories(folder_ / ".venv" / "bin");
  const fs::path in_venv = folder_ / ".venv" / "bin" / "tandem-report";
  std::ofstream(in_venv) << "#!/bin/sh\n";
  fs::permissions(in_venv, fs::perms::owner_all);
  EXPECT_EQ(ReportTool(bin()).program(), in_venv);
  fs::copy_file(in_venv, bin() / "tandem-report");
  EXPECT_EQ(ReportTool(bin()).program(), bin() / "tandem-report");
  ::setenv("PATH", path.c_str(), 1);
}

// Without it driver and gate may each be right and not understand each other.
TEST_F(DuetTest, WithTheRealGate) {
  if (!fs::exists(".venv/bin/tandem-report"))
    GTEST_SKIP() << "no .venv/bin/tandem-report: scripts/bootstrap makes it";
  environment_["PATH"] = fs::absolute(".venv/bin").string() + ":" + std::getenv("PATH");
  const Finished same = tandem(duet_args(two_groups()));
  EXPECT_EQ(same.code, 0) << same.err;
  EXPECT_NE(same.out.find("gate: pass (5 same)"), std::string::npos) << same.out;
  EXPECT_EQ(state()["pairs"], 8) << "the first look, at which a case can be the same";
  fs::remove_all(run_dir());
  const std::vector<std::string> factor = {"--b-env", "TANDEM_FAKE_FACTOR=1.02"};
  const Finished slower = tandem(duet_args(two_groups(), factor));
  EXPECT_EQ(slower.code, 1) << slower.err;
  EXPECT_NE(slower.out.find("gate: fail (5 slower"), std::string::npos) << slower.out;
  EXPECT_EQ(state()["pairs"], 11) << "the second, at which one can be slower";
  const json through = without_times(state());
  fs::remove_all(run_dir());
  std::vector<std::string> more = factor;
  more.insert(more.end(), {"--budget", "0.01s"});
  const Finished open = tandem(duet_args(two_groups(), more));
  EXPECT_EQ(open.code, 4) << open.err;
  EXPECT_NE(open.out.find("gate: undecided (5 unknown)"), std::string::npos) << open.out;
  more = factor;
  more.emplace_back("--resume");
  const Finished extended = tandem(duet_args(two_groups(), more));
  EXPECT_EQ(extended.code, 1) << extended.err;
  EXPECT_EQ(without_times(state()), through);
  fs::remove_all(run_dir());
  const Finished lost = tandem(duet_args(two_groups(), {"--b-env", "TANDEM_FAKE_FAULTS=2:invalid,5:segv"}));
  EXPECT_EQ(lost.code, 1) << lost.err;
  EXPECT_NE(lost.out.find("2 failed"), std::string::npos) << lost.out;
  fs::remove_all(run_dir());
  const Finished set = tandem(duet_args(two_groups(), {"--a-set", "memory=level2", "--b-set", "memory=gpu",
                                                       "--b-env", "TANDEM_FAKE_FACTOR=0.9"}));
  EXPECT_EQ(set.code, 0) << set.err;
  EXPECT_NE(set.out.find("5 faster"), std::string::npos) << set.out;
}

}  // namespace
}  // namespace tandem
