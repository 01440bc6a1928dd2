// Checks of earlier runs, from the outside with fake suite binaries.
#include <algorithm>

#include "harness/driver/testing/driver_fixture.h"

namespace tandem {
namespace {

using testing::DriverTest;
using testing::Finished;
using testing::json;
namespace fs = std::filesystem;

class CheckMemoryTest : public DriverTest {
 protected:
  CheckMemoryTest() { environment_["TANDEM_FAKE_CHECK_LOG"] = checks(); }

  fs::path checks() const { return folder_ / "checks"; }
  fs::path cache() const { return folder_ / "cache" / "tandem" / "checks"; }
  /// Batches that a run checked, sorted.
  std::multiset<int> checked_by(const std::vector<std::string>& more = {},
                                const std::vector<int>& batches = {1, 2, 3},
                                const json& extra = json::object()) {
    fs::remove_all(run_dir());
    fs::remove(checks());
    std::vector<std::string> args = {"--workers", "1"};
    args.insert(args.end(), more.begin(), more.end());
    last_ = tandem(run_args(sweep(batches, extra), args));
    EXPECT_EQ(records().size(), batches.size()) << last_.err;
    std::multiset<int> found;
    std::ifstream in(checks());
    for (int batch = 0; in >> batch;) found.insert(batch);
    return found;
  }
  std::vector<fs::path> files() const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(cache())) {
      if (entry.path().extension() == ".jsonl") found.push_back(entry.path());
    }
    return found;
  }

  Finished last_;
};

// Without it a second run of the same build checks everything again, or its records pass for checked anew.
TEST_F(CheckMemoryTest, ASecondRunTakesTheChecksOfTheFirst) {
  EXPECT_EQ(checked_by(), (std::multiset<int>{1, 2, 3}));
  for (const Record& r : records()) EXPECT_FALSE(r.check->remembered_from) << "made by this run";
  EXPECT_EQ(checked_by({}, {1, 2, 3, 4}), (std::multiset<int>{4})) << "only what is new";
  EXPECT_NE(last_.err.find("3 of 4 checks are remembered"), std::string::npos) << last_.err;
  for (const Record& r : records()) {
    EXPECT_EQ(r.status, Status::kOk);
    EXPECT_EQ(r.check->digest, "d");
    EXPECT_EQ(r.check->remembered_from.has_value(), r.c.batch != 4);
    EXPECT_TRUE(r.check->remembered_from.value_or("Z").ends_with("Z"));
  }
  EXPECT_EQ(checked_by({"--check-again"}, {1, 2}), (std::multiset<int>{1, 2}));
  EXPECT_EQ(checked_by({}, {1, 2, 3}), (std::multiset<int>{3}))
      << "what was known before is not, after --check-again";
}

// Without it a check made by another build, or under another setting of the libraries, counts for this one.
TEST_F(CheckMemoryTest, AnotherBuildOrSettingIsCheckedAnew) {
  checked_by();
  environment_["TANDEM_ARCH"] = "sm80";
  EXPECT_EQ(checked_by().size(), 3u);
  environment_.erase("TANDEM_ARCH");
  EXPECT_EQ(checked_by().size(), 0u) << "the first is still known";
  fs::remove(bin() / "suite_decoder");
  fs::copy_file(TANDEM_FAKE_SUITE, bin() / "suite_decoder");
  std::ofstream(bin() / "suite_decoder", std::ios::app) << "x";
  EXPECT_EQ(checked_by().size(), 3u);
  EXPECT_EQ(checked_by().size(), 0u);
  const std::string peer = fmt::format("mine={}", (bin() / "suite_decoder").string());
  for (int i = 0; i < 2; ++i)
    EXPECT_EQ(checked_by({"--peer", peer}, {1, 2, 3}, {{"engine", "mine"}}).size(), 3u)
        << "what else a peer consists of is not known";
}

// Without it a failure is remembered, and a case that was mended stays failed.
TEST_F(CheckMemoryTest, OnlyWhatWasRightIsRemembered) {
  environment_["TANDEM_FAKE_FAULTS"] = "1:invalid,2:validate-segv";
  checked_by();
  EXPECT_EQ(last_.code, 1);
  const auto again = checked_by();
  EXPECT_EQ(again.count(1), 1u);
  EXPECT_EQ(again.count(2), 2u) << "tried twice";
  EXPECT_EQ(again.count(3), 0u);
}

// Without it a damaged cache ends every run, or is believed.
TEST_F(CheckMemoryTest, ABrokenCacheIsMadeAnewAndSaidOnce) {
  checked_by();
  ASSERT_EQ(files().size(), 1u);
  const fs::path file = files()[0];
  const std::string good = read_file(file);
  const size_t head = good.find('\n') + 1;
  const std::string broken[] = {"\x01 no json\n",
                                "",
                                "{}\n" + good.substr(head),
                                good + "{\"made\": 3}\n",
                                good.substr(0, head) + "[1]\n",
                                good.substr(0, head) + R"({"made":"x","validation":{}})" + "\n"};
  for (const std::string& text : broken) {
    std::ofstream(file) << text;
    EXPECT_EQ(checked_by().size(), 3u) << text;
    EXPECT_EQ(last_.code, 0) << last_.err;
    const size_t said = last_.err.find("cannot be used and are made anew");
    EXPECT_EQ(said == std::string::npos, text.empty()) << last_.err;
    EXPECT_EQ(said == std::string::npos ? said : last_.err.find("made anew", said + 40), std::string::npos)
        << last_.err;
    EXPECT_EQ(checked_by().size(), 0u) << "said once: " << last_.err;
    EXPECT_EQ(last_.err.find("cannot be used"), std::string::npos);
  }
  // A kill leaves half a line, which costs that check only.
  std::ofstream(file) << good.substr(0, good.size() - 9);
  EXPECT_EQ(checked_by().size(), 1u);
  fs::remove_all(cache());
  std::ofstream(cache()) << "a file where the folder should be";
  EXPECT_EQ(checked_by().size(), 3u);
  EXPECT_EQ(last_.code, 0) << last_.err;
}

// Without it a check that no longer holds makes its case invalid for as long as the cache lives.
TEST_F(CheckMemoryTest, ACheckThatDoesNotHoldIsMadeAnew) {
  environment_["TANDEM_FAKE_FAULTS"] = "2:stale";
  EXPECT_EQ(checked_by().size(), 3u);
  EXPECT_EQ(checked_by(), std::multiset<int>{2});
  EXPECT_EQ(last_.code, 0) << last_.err;
  EXPECT_NE(last_.err.find("1 remembered check does not hold and is made anew"), std::string::npos)
      << last_.err;
  for (const Record& r : records()) {
    EXPECT_EQ(r.status, Status::kOk);
    EXPECT_EQ(r.check->remembered_from.has_value(), r.c.batch != 2);
  }
}

// Without it what was searched for while checking is missing when a remembered case is timed: it runs other kernels.
TEST_F(CheckMemoryTest, WhatWasSearchedForIsHandedOn) {
  environment_["TANDEM_FAKE_CHOICES"] = "1";
  checked_by({}, {1});
  const json first = json::parse(read_file(run_dir() + "/gemm-choices.json"));
  checked_by({}, {1});
  EXPECT_EQ(json::parse(read_file(run_dir() + "/gemm-choices.json")), first);
  checked_by({"--check-again"}, {1});
  EXPECT_NE(json::parse(read_file(run_dir() + "/gemm-choices.json")), first) << "searched for anew";
}

// Without it a run that is cut off after its checks has no time at all.
TEST_F(CheckMemoryTest, EachGroupIsTimedBeforeTheNextIsChecked) {
  environment_["TANDEM_FAKE_CHECK_LOG"] = log();  // into one file
  const std::string path = sweep({1, 2}, {{"precision", {"fp32", "bf16", "fp16"}}});
  ASSERT_EQ(tandem(run_args(path, {"--workers", "2"})).code, 0);
  std::string order;
  for (const std::string& line : log_lines()) {
    if (line != "ceilings") order += line.size() < 3 ? 'c' : 't';
  }
  EXPECT_EQ(order,
            "cctt"
            "cctt"
            "cctt"
            "tttttt");
}

}  // namespace
}  // namespace tandem
