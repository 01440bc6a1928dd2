// `tandem duet --profile`: both sides of what is slower are profiled, and the gate says why.
#include "harness/driver/session/profiles.h"
#include "harness/driver/testing/duet_fixture.h"

namespace tandem {
namespace {

using testing::Finished;
using testing::json;
namespace fs = std::filesystem;

class DuetProfileTest : public testing::DuetTest {
 protected:
  /// Lines of a side's profiles.
  std::vector<json> profiles(const std::string& side) const {
    std::vector<json> lines;
    const fs::path path = fs::path(run_dir()) / side / kProfilesFile;
    if (!fs::exists(path)) return lines;
    for_each_line(path, [&](int, const std::string& text) { lines.push_back(json::parse(text)); });
    return lines;
  }
  bool real_gate() {
    if (!fs::exists(".venv/bin/tandem-report")) return false;
    environment_["PATH"] = fs::absolute(".venv/bin").string() + ":" + std::getenv("PATH");
    return true;
  }
};

// Without it every case would be profiled, one side alone, or a side without its own settings.
TEST_F(DuetProfileTest, SlowerCasesAreProfiledOnceOnEachSide) {
  fake_gate(1, "slower", 1);
  ASSERT_EQ(tandem(duet_args(sweep({1, 2}), {"--b-env", "TANDEM_FAKE_FACTOR=1.5"})).code, 1);
  EXPECT_TRUE(profiles("a").empty()) << "nobody asked";
  std::string id;
  for (const Record& r : records("/a")) id = r.c.batch == 2 ? r.id : id;
  std::ofstream(folder_ / "cases-") << json::array({{{"id", id}, {"verdict", "slower"}}});
  const Finished f =
      tandem(duet_args(sweep({1, 2}), {"--b-env", "TANDEM_FAKE_FACTOR=1.5", "--resume", "--profile"}));
  ASSERT_EQ(f.code, 1) << f.err;
  for (const char* side : {"a", "b"}) {
    ASSERT_EQ(profiles(side).size(), 1u) << f.err;
    EXPECT_EQ(profiles(side)[0]["id"], id);
    EXPECT_EQ(profiles(side)[0]["pass"], "node");
    const json trace = json::parse(read_file(run_dir() + "/" + side + "/traces/" + id + "-node.json"));
    EXPECT_EQ(trace["replays"][0]["end"], *side == 'a' ? 200000 : 300000);
  }
  fs::remove(folder_ / "cases-");
  const Finished none =
      tandem(duet_args(sweep({1, 2}), {"--b-env", "TANDEM_FAKE_FACTOR=1.5", "--resume", "--profile"}));
  EXPECT_NE(none.err.find("--profile: no case is slower"), std::string::npos) << none.err;
}

// Without it driver and gate may each be right and not name what was planted.
TEST_F(DuetProfileTest, TheGateNamesThePlantedPhase) {
  if (!real_gate()) GTEST_SKIP() << "no .venv/bin/tandem-report: scripts/bootstrap makes it";
  Finished f = tandem(
      duet_args(sweep({1}), {"--profile", "--a-set", "memory=level2", "--b-set", "memory=gpu", "--b-env",
                             "TANDEM_FAKE_FACTOR=1.05", "--b-env", "TANDEM_FAKE_SLOW_PHASE=ffn.up"}));
  EXPECT_EQ(f.code, 1) << f.err;
  EXPECT_NE(
      f.out.find(
          "cause: decoder ffn.up 20.00 to 25.00 µs carries 100 % of it (kernel kernel_2 20.00 to 25.00 µs)"),
      std::string::npos)
      << f.out;
  fs::remove_all(run_dir());
  f = tandem(duet_args(sweep({1}), {"--profile", "--b-env", "TANDEM_FAKE_FACTOR=1.05"}));
  EXPECT_EQ(f.code, 1) << f.err;
  EXPECT_NE(f.out.find("all phases take +5.00 %, none stands out"), std::string::npos) << f.out;
  fs::remove_all(run_dir());
  f = tandem(duet_args(sweep({1}), {"--profile", "--b-env", "TANDEM_FAKE_FACTOR=1.05", "--b-env",
                                    "TANDEM_FAKE_FAULTS=1:node-segv"}));
  EXPECT_EQ(f.code, 1) << "a profile that fails changes no verdict: " << f.err;
  EXPECT_NE(f.out.find("cause: no profile of B: killed by SIGSEGV"), std::string::npos) << f.out;
}

}  // namespace
}  // namespace tandem
