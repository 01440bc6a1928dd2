// A long run on the reference engine, with the real suites, whose processes crash, hang, run out of memory and compute
// something wrong.
#include "harness/driver/testing/driver_fixture.h"

namespace tandem {
namespace {

using testing::DriverTest;
using testing::Finished;
using testing::json;
namespace fs = std::filesystem;

class FaultsTest : public DriverTest {
 protected:
  FaultsTest() {
    for (const char* suite : {"encoder", "decoder"}) {
      fs::remove(bin() / fmt::format("suite_{}", suite));
      fs::create_symlink(fs::absolute("harness/driver/testing/faulty_suite.py"),
                         bin() / fmt::format("suite_{}", suite));
    }
    environment_["FAULTY_SUITES"] = fs::path(TANDEM_BINARY).parent_path();
    environment_["FAULTY_PLAN"] = folder_ / "plan.json";
    environment_["TANDEM_SAMPLE_SECONDS"] = "0:0.01";
    environment_["OMP_NUM_THREADS"] = "1";
  }
};

// Without it one bad case of a hundred costs others their numbers, on the engine and the suites that users have.
TEST_F(FaultsTest, AHundredCasesLoseOnlyTheFaultyOnes) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer needs more address space than the limit that stands for a full memory";
#endif
  if (std::system("python3 -c 'import json' >/dev/null 2>&1") != 0) GTEST_SKIP() << "no python3";
  const json sweep = {{"groups",
                       {{{"suite", "decoder"},
                         {"model", "tiny"},
                         {"precision", "fp32"},
                         {"batch", {1, 2, 3, 4, 5, 6}},
                         {"src", {4, 8}},
                         {"tgt", {1, 2, 3, 4}}},
                        {{"suite", "encoder"},
                         {"model", "tiny"},
                         {"precision", "fp32"},
                         {"batch", {1, 2, 3, 4, 5, 6, 7, 8}},
                         {"src", {2, 3, 4, 5, 6, 7}}},
                        {{"suite", "encoder"},
                         {"model", "transformer-big"},
                         {"precision", "fp32"},
                         {"batch", {1, 2, 3, 4}},
                         {"src", 2}}}}};
  const std::string path = folder_ / "hundred.json";
  std::ofstream(path) << sweep;
  const Finished listed = tandem({"list", path, "--engine", "reference", "--bin-dir",
                                  fs::path(TANDEM_BINARY).parent_path(), "--json", "--workers", "1"});
  ASSERT_EQ(listed.code, 0) << listed.err;
  json plan;
  int tiny = 0, cases = 0;
  for (const json& row : json::parse(listed.out)) {
    ++cases;
    if (row["name"].get<std::string>().find("transformer-big") != std::string::npos) {
      plan[row["id"].get<std::string>()] = "oom";
    } else {
      const int place = tiny++;
      if (place % 16 == 3) plan[row["id"].get<std::string>()] = "segv";
      if (place % 16 == 9) plan[row["id"].get<std::string>()] = "wrong";
      if (place % 48 == 20) plan[row["id"].get<std::string>()] = "hang";
    }
  }
  ASSERT_EQ(cases, 100);
  ASSERT_EQ(plan.size(), 4u + 6 + 6 + 2);
  std::ofstream(folder_ / "plan.json") << plan;

  const Finished f = tandem(run_args(path, {"--workers", "1", "--timeout", "4"}));
  EXPECT_EQ(f.code, 1) << f.err;
  const std::map<std::string, Status> expected = {{"segv", Status::kCrashed},
                                                  {"hang", Status::kTimeout},
                                                  {"oom", Status::kOom},
                                                  {"wrong", Status::kInvalid}};
  const auto all = records();
  EXPECT_EQ(all.size(), 100u);
  for (const Record& r : all) {
    const Status status = plan.contains(r.id) ? expected.at(plan[r.id]) : Status::kOk;
    EXPECT_EQ(r.status, status) << r.name << ": " << r.reason.value_or("");
    EXPECT_EQ(r.summary.has_value(), status == Status::kOk) << "a time for " << r.name;
    if (status == Status::kOom) {
      EXPECT_NE(r.reason->find("out of memory: "), std::string::npos) << *r.reason;
    }
    if (status == Status::kInvalid) {
      EXPECT_NE(r.reason->find("not the one that was checked"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace tandem
