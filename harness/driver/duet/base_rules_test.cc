// A change must not choose the sweep and the rules that it is judged by.
#include "harness/driver/duet/base_rules.h"

#include "harness/base/error.h"
#include "harness/driver/session/build_of.h"
#include "harness/driver/testing/driver_fixture.h"

namespace tandem {
namespace {

using testing::DriverTest;
using testing::Finished;
using testing::json;
namespace fs = std::filesystem;

/// Two checkouts, base and change, each with suites/ and a build of it below; the working folder is the change.
class BaseRulesTest : public DriverTest {
 protected:
  BaseRulesTest() : before_(fs::current_path()) {
    for (const char* name : {"base", "change"}) {
      fs::create_directories(folder_ / name / "build" / "bin");
      for (const char* suite : {"encoder", "decoder", "generate", "limits"})
        fs::create_symlink(TANDEM_FAKE_SUITE, built(name) / fmt::format("suite_{}", suite));
      fs::create_directories(folder_ / name / "suites");
    }
    put("base", "gate.json", cases({1, 2}));
    put("base", "gates.json", R"({"alpha": 0.01})");
    keep("base");
    put("change", "gate.json", cases({1}));
    put("change", "gates.json", R"({"alpha": 0.01, "default": {"minimum_effect": 0.9, "equivalence": 0.9}})");
    keep("change");
    fs::current_path(folder_ / "change");
  }
  ~BaseRulesTest() override { fs::current_path(before_); }

  static std::string cases(const std::vector<int>& batches) {
    return json{{"groups",
                 {{{"suite", "decoder"},
                   {"model", "tiny"},
                   {"precision", "fp32"},
                   {"src", 4},
                   {"tgt", 4},
                   {"batch", batches}}}}}
        .dump();
  }
  fs::path built(const std::string& name) const { return folder_ / name / "build" / "bin"; }
  void put(const std::string& name, const std::string& file, const std::string& text) const {
    std::ofstream(folder_ / name / "suites" / file) << text;
  }
  /// What the build's own targets leave: the note and the copies.
  void keep(const std::string& name) const {
    fs::remove_all(built(name) / "suites");
    fs::copy(folder_ / name / "suites", built(name) / "suites");
    std::ofstream(built(name) / "tandem-build.json")
        << json{{"source", folder_ / name}, {"revision", "0123456789abcdef"}, {"dirty", false}};
  }
  DuetArgs args(const std::string& sweep = "suites/gate.json") const {
    DuetArgs a;
    a.run.sweep = sweep;
    a.run.bin_dir = built("change");
    a.bin[0] = built("base");
    a.bin[1] = built("change");
    return a;
  }
  /// A gate that is planned at one pair and finds everything the same.
  void fake_gate() {
    fs::create_directories(folder_ / "tools");
    const fs::path tool = folder_ / "tools" / "tandem-report";
    std::ofstream(tool) << "#!/bin/sh\necho \"$*\" >> " << (folder_ / "asked").string() << R"(
case "$*" in
  *--plan*) echo '{"pairs": [1]}';;
  *--json*) echo '{"stop": true, "alpha_of_look": 0.01, "counts": {"same": 1}, "cases": []}';;
  *) echo table;;
esac
)";
    fs::permissions(tool, fs::perms::owner_all);
    environment_["PATH"] = (folder_ / "tools").string() + ":" + std::getenv("PATH");
  }
  std::vector<std::string> duet(std::vector<std::string> more = {}) const {
    std::vector<std::string> words = {"duet", "--out",         run_dir(),  "--a",       built("base"),
                                      "--b",  built("change"), "--engine", "reference", "--looks",
                                      "1"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  std::string kept_policy() const { return read_file(run_dir() + "/gates.json"); }

  fs::path before_;
};

// Without it a pull request that drops its slow case from the sweep, or widens the rules, would pass.
TEST_F(BaseRulesTest, TheBaseChoosesSweepAndRules) {
  fake_gate();
  const Finished f = tandem(duet({"suites/gate.json"}));
  ASSERT_EQ(f.code, 0) << f.err;
  std::set<int> batches;
  for (const Record& r : records("/b")) batches.insert(r.c.batch);
  EXPECT_EQ(batches, (std::set<int>{1, 2})) << "those of the base";
  EXPECT_EQ(kept_policy(), R"({"alpha": 0.01})");
  const std::string words =
      fmt::format("as side A was built with it ({} at 0123456789ab)", (folder_ / "base").string());
  EXPECT_NE(f.err.find("sweep: suites/gate.json " + words), std::string::npos) << f.err;
  EXPECT_NE(f.err.find("rules: suites/gates.json " + words), std::string::npos) << f.err;
  EXPECT_NE(
      f.err.find(
          "suites/gate.json is not what side A has, and is not used; --sweep suites/gate.json would use it"),
      std::string::npos)
      << f.err;
  const json rules = json::parse(read_file(run_dir() + "/duet.json"))["rules"];
  EXPECT_EQ(rules["policy"].get<std::string>(), "suites/gates.json " + words);
  EXPECT_EQ(read_file(run_dir() + "/a/gates.json"), R"({"alpha": 0.01})")
      << "a run keeps the rules of its build";
  EXPECT_NE(read_file(folder_ / "asked").find("--policy " + run_dir() + "/gates.json"), std::string::npos)
      << "looks are planned by the same rules";
}

// Without it the name of a sweep would mean each side's own file, and the change would choose its cases after all.
TEST_F(BaseRulesTest, ANameMeansTheBasesSweep) {
  const BaseRules found = base_rules(args("gate"));
  EXPECT_EQ(found.sweep.file, (built("base") / "suites" / "gate.json").string());
  EXPECT_TRUE(found.sweep.from.starts_with("suites/gate.json as side A was built with it"))
      << found.sweep.from;
  EXPECT_THROW(base_rules(args("gat")), UsageError);
}

// Without it nobody could try another sweep or other rules on purpose.
TEST_F(BaseRulesTest, FlagsGoBefore) {
  fake_gate();
  const Finished f = tandem(duet({"--sweep", "suites/gate.json", "--policy", "suites/gates.json"}));
  ASSERT_EQ(f.code, 0) << f.err;
  EXPECT_EQ(records("/b").size(), 1u);
  EXPECT_EQ(kept_policy(), read_file("suites/gates.json"));
  EXPECT_EQ(f.err.find("is not used"), std::string::npos) << f.err;
  EXPECT_EQ(tandem(duet()).code, 2) << "no sweep at all";
}

// Without it a duet could be begun by one rule and ended by another.
TEST_F(BaseRulesTest, ADuetKeepsItsRules) {
  fake_gate();
  ASSERT_EQ(tandem(duet({"suites/gate.json"})).code, 0);
  std::ofstream(built("base") / "suites" / "gates.json") << R"({"alpha": 0.5})";
  ASSERT_EQ(tandem(duet({"suites/gate.json", "--resume"})).code, 0);
  EXPECT_EQ(kept_policy(), R"({"alpha": 0.01})");
  const Finished f = tandem(duet({"suites/gate.json", "--resume", "--policy", "suites/gates.json"}));
  EXPECT_EQ(f.code, 2) << f.err;
  EXPECT_NE(f.err.find("was begun with other rules"), std::string::npos) << f.err;
  const Finished none = tandem(duet({"suites/gate.json", "--policy", "none.json", "--resume"}));
  EXPECT_EQ(none.code, 2) << none.err;
  EXPECT_NE(none.err.find("none.json"), std::string::npos) << none.err;
}

// Without it a build that was copied alone, or made before builds kept anything, would be judged by the change's rules unsaid.
TEST_F(BaseRulesTest, ABuildThatKeepsNothingIsOneLine) {
  fs::remove_all(built("base") / "suites");
  const BaseRules found = base_rules(args());
  EXPECT_EQ(found.sweep.file, "suites/gate.json");
  EXPECT_EQ(found.policy.file, "suites/gates.json");
  ASSERT_EQ(found.remarks.size(), 1u);
  EXPECT_NE(found.remarks[0].find("side A keeps no suites/ beside its binaries"), std::string::npos);
  EXPECT_NE(found.remarks[0].find("may be B's own"), std::string::npos);
  // The sources may be gone, or elsewhere: the copies are what counts.
  keep("base");
  fs::remove_all(folder_ / "base" / "suites");
  fs::remove(built("base") / "tandem-build.json");
  const BaseRules moved = base_rules(args());
  EXPECT_EQ(moved.sweep.file, built("base") / "suites" / "gate.json");
  EXPECT_EQ(moved.policy.file, built("base") / "suites" / "gates.json");
}

// Without it a base without rules would be judged by the change's, and a sweep of one's own could not be named.
TEST_F(BaseRulesTest, WhatTheBaseHasNotAndWhatIsNoneOfItsFiles) {
  fs::remove(built("base") / "suites" / "gates.json");
  fs::remove(built("base") / "suites" / "gate.json");
  BaseRules found = base_rules(args());
  EXPECT_EQ(found.policy.file, "");
  EXPECT_EQ(found.policy.from, "built-in rules");
  EXPECT_EQ(found.sweep.file, "suites/gate.json");
  ASSERT_FALSE(found.remarks.empty());
  EXPECT_NE(found.remarks[0].find("side A was built without suites/gate.json"), std::string::npos);
  keep("base");
  std::ofstream("gate.json") << "{}";
  found = base_rules(args("gate.json"));
  EXPECT_EQ(found.sweep.file, "gate.json") << "in no folder suites: a file of one's own";
  fs::create_directories("below");
  fs::current_path("below");
  EXPECT_EQ(base_rules(args("../suites/gate.json")).sweep.file, built("base") / "suites" / "gate.json");
  fs::current_path(folder_ / "change");
  // Two settings of one build have no base: an edited sweep counts at once.
  DuetArgs one = args();
  one.bin[1] = one.bin[0];
  found = base_rules(one);
  EXPECT_EQ(found.sweep.file, "suites/gate.json");
  EXPECT_EQ(found.policy.file, "suites/gates.json");
  EXPECT_TRUE(found.remarks.empty());
  // Edited in the base after it was built: what was built counts, and that is said.
  put("base", "gate.json", cases({1, 2, 3}));
  found = base_rules(args());
  ASSERT_FALSE(found.remarks.empty());
  EXPECT_NE(found.remarks[0].find("base/suites/gate.json was changed after side A was built; not used"),
            std::string::npos)
      << found.remarks[0];
}

// Without it a damaged note would stop a duet, or speak of a folder that nobody wrote.
TEST_F(BaseRulesTest, NotesThatCannotBeReadAreNone) {
  EXPECT_EQ(build_note(built("base"))->revision, "0123456789abcdef");
  for (const char* text : {"", "{", "[]", R"({"source": 3})", R"({"revision": "x"})"}) {
    std::ofstream(built("base") / "tandem-build.json") << text;
    EXPECT_FALSE(build_note(built("base"))) << text;
  }
}

// Without it the build's own targets might not leave what the duet looks for.
TEST_F(BaseRulesTest, ThisBuildKeepsItsSuites) {
  const fs::path own = fs::path(TANDEM_BINARY).parent_path();
  ASSERT_TRUE(build_note(own));
  EXPECT_TRUE(fs::equivalent(build_note(own)->source, before_)) << build_note(own)->source;
  for (const auto& entry : fs::directory_iterator(before_ / "suites")) {
    if (entry.path().extension() != ".json") continue;
    EXPECT_EQ(read_file(kept_suite_file(own, entry.path().filename())), read_file(entry.path()))
        << entry.path();
  }
}

// Without it a case that the change can no longer measure would be left out of the verdict.
TEST_F(BaseRulesTest, ACaseThatIsGoneIsMissing) {
  const fs::path gate = before_ / ".venv/bin";
  if (!fs::exists(gate / "tandem-report"))
    GTEST_SKIP() << "no .venv/bin/tandem-report: scripts/bootstrap makes it";
  environment_["PATH"] = gate.string() + ":" + std::getenv("PATH");
  json sweep = json::parse(cases({1}));
  sweep["groups"].push_back({{"suite", "encoder"}, {"model", "tiny"}, {"precision", "fp32"}, {"batch", 4}});
  put("base", "gate.json", sweep.dump());
  keep("base");
  fs::remove(built("change") / "suite_encoder");
  const Finished f = tandem(duet({"suites/gate.json", "--budget", "2s"}));
  EXPECT_EQ(f.code, 1) << f.err << f.out;
  EXPECT_NE(f.out.find("1 missing"), std::string::npos) << f.out;
  EXPECT_NE(f.out.find("Rules: suites/gates.json as side A was built with it"), std::string::npos) << f.out;
}

}  // namespace
}  // namespace tandem
