// `tandem bisect` from the outside: a toy repository whose builds are fake suites of the speed that each commit says.
#include <cstdlib>
#include <random>

#include "harness/base/testing/test_seed.h"
#include "harness/driver/bisect/search.h"
#include "harness/driver/testing/driver_fixture.h"

namespace tandem {
namespace {

using testing::DriverTest;
using testing::Finished;
using testing::json;
namespace fs = std::filesystem;

// Without it a search may end at a revision that is not the first bad one, try one twice, or take more steps than it must.
TEST(SearchTest, FindsTheFirstBadAroundWhatCannotBeTried) {
  std::mt19937_64 random(test_seed());
  for (int n = 1; n <= 40; ++n) {
    for (int first = 0; first < n; ++first) {
      for (const int percent : {0, 30}) {
        Search search(n);
        std::set<int> tried;
        const int steps = search.steps();
        while (const auto i = search.next()) {
          ASSERT_TRUE(tried.insert(*i).second);
          const bool skip = static_cast<int>(random() % 100) < percent;
          search.mark(*i, skip ? Mark::kSkipped : *i >= first ? Mark::kBad : Mark::kGood);
        }
        const std::vector<int> suspects = search.suspects();
        EXPECT_TRUE(std::find(suspects.begin(), suspects.end(), first) != suspects.end());
        if (percent == 0) {
          EXPECT_EQ(suspects, std::vector<int>{first});
          EXPECT_LE(static_cast<int>(tried.size()), steps);
        }
        for (size_t i = 0; i + 1 < suspects.size(); ++i)
          EXPECT_TRUE(tried.contains(suspects[i])) << "skipped, not passed over";
      }
    }
  }
  EXPECT_EQ(Search(8).steps(), 3);
}

class BisectTest : public DriverTest {
 protected:
  BisectTest() {
    fs::create_directories(repo());
    git("init -q");
    environment_["PATH"] = (folder_ / "tools").string() + ":" + std::getenv("PATH");
    fake_gate();
    sweep({1, 2});
  }

  fs::path repo() const { return folder_ / "repo"; }
  std::string git(const std::string& words) const {
    const std::string out = folder_ / "git.txt";
    const std::string command = fmt::format("cd {} && git -c user.name=x -c user.email=x@y.z {} > {} 2>&1",
                                            repo().string(), words, out);
    EXPECT_EQ(std::system(command.c_str()), 0) << command << read_file(out);
    std::string text = read_file(out);
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
  }
  /// A commit whose build runs at `factor` times the time; with 0 it does not build. Its hash.
  std::string commit(double factor) {
    std::ofstream script(repo() / "build.sh");
    script << "echo built >> " << (folder_ / "built").string() << "\n";
    if (factor == 0) script << "echo 'error: no such thing' >&2; exit 7\n";
    script << "mkdir -p out/bin\nfor s in encoder decoder; do\n"
           << fmt::format("printf '#!/bin/sh\\nTANDEM_FAKE_FACTOR={} exec {} \"$@\"\\n' > out/bin/suite_$s\n",
                          factor, TANDEM_FAKE_SUITE)
           << "chmod +x out/bin/suite_$s\ndone\n# " << ++commits_ << "\n";
    script.close();
    git("add build.sh");
    git(fmt::format("commit -q -m 'commit {}'", commits_));
    return git("rev-parse HEAD");
  }
  std::vector<std::string> history(const std::vector<double>& factors) {
    std::vector<std::string> hashes;
    for (const double f : factors) hashes.push_back(commit(f));
    return hashes;
  }
  /// One that compares the first record of each side.
  void fake_gate() {
    fs::create_directories(folder_ / "tools");
    const fs::path tool = folder_ / "tools" / "tandem-report";
    std::ofstream(tool) << R"(#!/bin/sh
case "$*" in *--plan*) echo '{"pairs": [6]}'; exit 0;; esac
median() { sed -n 's/.*"median_us":\([0-9.]*\).*/\1/p' "$1/records.jsonl" | head -n 1; }
a=$(median "$2/a") b=$(median "$2/b") ratio=1 verdict=unknown
[ -n "$a" ] && [ -n "$b" ] && ratio=$(awk "BEGIN {print $b / $a}")
[ -n "$a" ] && [ -n "$b" ] && verdict=$(awk "BEGIN {print ($ratio > 1.01) ? \"slower\" : ($ratio > 1.004) ? \"unknown\" : \"same\"}")
code=0; [ $verdict = slower ] && code=1; [ $verdict = unknown ] && code=4
case "$*" in
  *--json*) echo '{"stop": true, "alpha_of_look": 0.01, "counts": {"'$verdict'": 1}, "cases": [{"id": "x", "verdict": "'$verdict'", "ratio": '$ratio', "note": ""}]}';;
  *) echo "table $ratio";;
esac
exit $code
)";
    fs::permissions(tool, fs::perms::owner_all);
  }
  std::vector<std::string> bisect(const std::string& good, const std::string& bad,
                                  const std::vector<std::string>& more = {}) const {
    std::map<std::string, std::string> flags = {{"--good", good},       {"--bad", bad},
                                                {"--repo", repo()},     {"--out", run_dir()},
                                                {"--case", "batch:2/"}, {"--build", "sh build.sh"},
                                                {"--bin", "out/bin"},   {"--engine", "reference"},
                                                {"--looks", "1"}};
    std::vector<std::string> words = {"bisect", folder_ / "s.json"};
    for (size_t i = 0; i < more.size(); ++i) {
      if (flags.contains(more[i])) {
        flags[more[i]] = more[i + 1];
        ++i;
      } else {
        words.push_back(more[i]);
      }
    }
    for (const auto& [flag, value] : flags) words.insert(words.end(), {flag, value});
    return words;
  }
  json state() const { return json::parse(read_file(run_dir() + "/bisect.json")); }
  int builds() const {
    std::ifstream in(folder_ / "built");
    int n = 0;
    for (std::string line; std::getline(in, line);) ++n;
    return n;
  }
  /// Is nothing left but the repository itself?
  void expect_no_worktree() const {
    EXPECT_EQ(git("worktree list --porcelain | grep -c ^worktree"), "1");
    for (const auto& entry : fs::recursive_directory_iterator(folder_ / "cache")) {
      EXPECT_FALSE(entry.path().filename().string().starts_with("source-")) << entry.path();
    }
  }

  int commits_ = 0;
};

// Without it the commit that is named may be another than the one that made the case slower.
TEST_F(BisectTest, FindsAPlantedCommitAmongEight) {
  const auto hashes = history({1, 1, 1, 1, 1, 1.05, 1.05, 1.05, 1.05});
  const Finished f = tandem(bisect(hashes.front(), hashes.back()));
  ASSERT_EQ(f.code, 0) << f.err;
  EXPECT_TRUE(f.out.starts_with(hashes[5].substr(0, 12) +
                                " commit 6\n  is the first at which decoder/model:tiny/batch:2/"))
      << f.out;
  EXPECT_NE(f.out.find("bad: slower, +4.9"), std::string::npos) << f.out;
  EXPECT_NE(f.out.find("alone, over the revision before it: slower, +4.9"), std::string::npos) << f.out;
  EXPECT_LE(builds(), 2 + 3) << "both ends and three steps";
  EXPECT_EQ(state()["end"], "found");
  EXPECT_EQ(state()["suspects"], json({hashes[5]}));
  EXPECT_NE(f.err.find(": sh build.sh\n"), std::string::npos) << "the build command is printed: " << f.err;
  expect_no_worktree();
  for (const Record& r :
       records(fmt::format("/duet-{}-{}/b", hashes[0].substr(0, 12), hashes[8].substr(0, 12)))) {
    EXPECT_EQ(r.c.batch, 2) << "the case alone is measured";
  }
  // Builds are kept: another bisection of the same commits compiles nothing.
  const int before = builds();
  fs::remove_all(run_dir());
  ASSERT_EQ(tandem(bisect(hashes.front(), hashes.back())).code, 0);
  EXPECT_EQ(builds(), before);
}

// Without it bisection and gate may each be right and not understand each other.
TEST_F(BisectTest, WithTheRealGate) {
  if (!fs::exists(".venv/bin/tandem-report"))
    GTEST_SKIP() << "no .venv/bin/tandem-report: scripts/bootstrap makes it";
  environment_["PATH"] = fs::absolute(".venv/bin").string() + ":" + std::getenv("PATH");
  const auto hashes = history({1, 1, 1, 0, 1.02, 1.02, 1.02, 1.02, 1.02});
  const Finished f = tandem(bisect(hashes.front(), hashes.back()));
  EXPECT_EQ(f.code, 4) << "the one before it does not build: " << f.err;
  EXPECT_EQ(state()["suspects"], json({hashes[3], hashes[4]}));
  EXPECT_NE(f.out.find("commit 5\n  bad: slower, +1.9"), std::string::npos) << f.out;
  expect_no_worktree();
}

// Without it a commit that does not build would end the search, or be named.
TEST_F(BisectTest, WhatDoesNotBuildIsSkipped) {
  auto hashes = history({1, 1, 1, 0, 1, 1.05, 1.05});
  Finished f = tandem(bisect(hashes.front(), hashes.back()));
  ASSERT_EQ(f.code, 0) << f.err;
  EXPECT_TRUE(f.out.starts_with(hashes[5].substr(0, 12))) << f.out;
  EXPECT_NE(f.err.find("skipped: the build exited with code 7: error: no such thing ("), std::string::npos)
      << f.err;
  fs::remove_all(run_dir());
  hashes = history({1, 1, 0, 1.05});
  f = tandem(bisect(hashes.front(), hashes.back()));
  EXPECT_EQ(f.code, 4) << f.err;
  EXPECT_TRUE(f.out.starts_with("one of 2 is the first at which")) << f.out;
  EXPECT_EQ(state()["suspects"], json({hashes[2], hashes[3]}));
  EXPECT_EQ(state()["end"], "narrowed");
  expect_no_worktree();
}

// Without it a slow-down that grew over several commits would be laid on the one that tipped the scales.
TEST_F(BisectTest, SaysWhenSmallerChangesAddUp) {
  const auto hashes = history({1, 1.006, 1.012, 1.012});
  const Finished f = tandem(bisect(hashes.front(), hashes.back()));
  ASSERT_EQ(f.code, 4) << "the one at +0.6 % is undecided: " << f.err;
  EXPECT_EQ(state()["suspects"], json({hashes[1], hashes[2]}));
  fs::remove_all(run_dir());
  const auto steps = history({1, 1.003, 1.011});
  const Finished g = tandem(bisect(steps.front(), steps.back()));
  ASSERT_EQ(g.code, 0) << g.err;
  EXPECT_NE(g.out.find("smaller changes may have added up to it"), std::string::npos) << g.out;
}

// Without it a kill would cost the builds and duets before it, or leave a worktree in the repository for ever.
TEST_F(BisectTest, GoesOnAfterAKill) {
  const auto hashes = history({1, 1, 1, 1.05, 1.05, 1.05});
  std::mt19937_64 random(test_seed());
  environment_["TANDEM_FAKE_SLEEP_MS"] = "20";
  Finished f;
  f.signal = SIGKILL;
  int kills = 0;
  for (; f.signal != 0 && kills < 20; ++kills) {
    const bool begun = fs::exists(run_dir() + "/bisect.json");
    if (!begun) fs::remove_all(run_dir());
    const pid_t pid =
        start(bisect(hashes.front(), hashes.back(),
                     begun ? std::vector<std::string>{"--resume"} : std::vector<std::string>{}));
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 600 + 100 * kills));
    ::kill(pid, kills < 10 ? SIGKILL : SIGTERM);
    f = wait_for(pid);
    if (f.code == 130) f.signal = SIGTERM;  // interrupted, and said so
  }
  ASSERT_EQ(f.code, 0) << f.err;
  std::cout << kills - 1 << " kills\n";
  EXPECT_TRUE(f.out.starts_with(hashes[3].substr(0, 12))) << f.out;
  EXPECT_LE(state()["tried"].size(), 1u + 3u) << "none is tried twice";
  expect_no_worktree();
}

// Without it Ctrl-C would leave a worktree, or not say how to go on.
TEST_F(BisectTest, AnInterruptLeavesNothingBehind) {
  const auto hashes = history({1, 1, 1.05});
  environment_["TANDEM_FAKE_SLEEP_MS"] = "3000";
  const pid_t pid = start(bisect(hashes.front(), hashes.back()));
  ASSERT_TRUE(soon([&] {
    return fs::exists(run_dir() +
                      fmt::format("/duet-{}-{}/a", hashes[0].substr(0, 12), hashes[2].substr(0, 12)));
  }));
  ::kill(pid, SIGINT);
  const Finished f = wait_for(pid);
  EXPECT_NE(f.code, 0);
  EXPECT_NE(f.err.find(fmt::format("interrupted; continue with: {} bisect ", TANDEM_BINARY)),
            std::string::npos)
      << f.err;
  EXPECT_NE(f.err.find(" --looks 1 "), std::string::npos) << "in the same words: " << f.err;
  expect_no_worktree();
}

// Without it a typing error would cost an hour of builds, or a bisection name a commit where nothing is slower.
TEST_F(BisectTest, BadInputIsRefused) {
  const auto hashes = history({1, 1, 1});
  struct Row {
    std::string good, bad;
    std::vector<std::string> more;
    const char* message;
  };
  git("checkout -q -b side " + hashes[0]);
  const std::string side = commit(1);
  const Row rows[] = {
      {"none", hashes[2], {}, "--good: 'none' is no commit of"},
      {hashes[0], "--all", {}, "--bad"},
      {hashes[0], hashes[0], {}, "--good and --bad are the same commit"},
      {hashes[2], hashes[0], {}, "is no ancestor of --bad"},
      {side, hashes[2], {}, "is no ancestor of --bad"},
      {hashes[0], hashes[2], {"--repo", "/"}, "--repo: / is in no git repository"},
      {hashes[0], hashes[2], {"--case", "batch:7/"}, "--case: 'batch:7/' is in none of the 2 cases' names"},
      {hashes[0], hashes[2], {"--case", "batch"}, "--case: 'batch' is in 2 names: decoder/"},
      {hashes[0], hashes[2], {"--budget", "soon"}, "--budget: 'soon' is not allowed"},
      {hashes[0], hashes[2], {"--resume"}, "holds no bisection"},
  };
  for (const Row& row : rows) {
    const Finished f = tandem(bisect(row.good, row.bad, row.more));
    EXPECT_EQ(f.code, 2) << f.err;
    EXPECT_NE(f.err.find(row.message), std::string::npos)
        << "expected: " << row.message << "\ngot: " << f.err;
    EXPECT_EQ(builds(), 0) << row.message;
  }
  Finished f = tandem(bisect(hashes[0], hashes[2]));
  EXPECT_EQ(f.code, 2) << f.err;
  EXPECT_NE(f.err.find("is not slower than --good"), std::string::npos) << f.err;
  EXPECT_EQ(tandem(bisect(hashes[0], hashes[2])).code, 2) << "the folder is not empty";
  f = tandem(bisect(hashes[0], hashes[2], {"--resume", "--case", "batch:1/"}));
  EXPECT_EQ(f.code, 2);
  EXPECT_NE(f.err.find("was begun with another --case"), std::string::npos) << f.err;
  std::ofstream(run_dir() + "/bisect.json") << "[]";
  EXPECT_EQ(tandem(bisect(hashes[0], hashes[2], {"--resume"})).code, 2);
  fs::remove_all(run_dir());
  const std::string broken = commit(0);
  f = tandem(bisect(hashes[0], broken));
  EXPECT_EQ(f.code, 2) << f.err;
  EXPECT_NE(f.err.find("the build exited with code 7"), std::string::npos) << f.err;
  expect_no_worktree();
}

}  // namespace
}  // namespace tandem
