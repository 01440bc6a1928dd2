#include <fmt/format.h>

#include "harness/base/error.h"
#include "harness/driver/session/build_of.h"
#include "harness/driver/testing/driver_fixture.h"
#include "harness/record/environment.h"

namespace tandem {
namespace {

using testing::json;
namespace fs = std::filesystem;

class BuildOfTest : public testing::DriverTest {
 protected:
  /// A `tandem` in bin() that answers with these lines of shell.
  void answer(const std::string& shell) {
    const fs::path program = bin() / "tandem";
    fs::remove(program);
    std::ofstream(program) << "#!/bin/sh\n" << shell << "\n";
    fs::permissions(program, fs::perms::owner_all);
  }
};

// Without it the two sides of a duet would both be recorded as the build whose `tandem` runs it.
TEST_F(BuildOfTest, AsksTheBuildItself) {
  json other = build_json();
  other["git"]["revision"] = "of-the-other-build";
  answer(fmt::format("[ \"$1\" = build-info ] && echo loading ... && echo '{}'", other.dump()));
  EXPECT_EQ(build_of(bin()), other);
  EXPECT_EQ(build_of(fs::read_symlink("/proc/self/exe").parent_path()), build_json());
}

// Without it a build that cannot tell would stop the run, or be recorded as this one.
TEST_F(BuildOfTest, SilenceIsUnknown) {
  EXPECT_EQ(build_of(bin()), unknown_build_json()) << "no program";
  for (const char* shell : {"exit 2", "echo '{\"git\": {}}'", "echo '[1]'", "kill -9 $$"}) {
    answer(shell);
    EXPECT_EQ(build_of(bin()), unknown_build_json()) << shell;
  }
  std::ofstream(bin() / "tandem") << "no program at all";
  EXPECT_EQ(build_of(bin()), unknown_build_json());
}

// Without it `tandem list smoke` would work in a clone alone, or a sweep of the build would hide the user's own.
TEST_F(BuildOfTest, SweepsGoByName) {
  const fs::path before = fs::current_path();
  fs::current_path(folder_);
  const auto put = [&](const fs::path& file) {
    fs::create_directories((folder_ / file).parent_path());
    std::ofstream(folder_ / file) << "{}";
  };
  put("prefix/share/tandem/suites/smoke.json");
  put("prefix/share/tandem/suites/gates.json");
  fs::create_directories("prefix/bin");
  const fs::path installed = folder_ / "prefix" / "bin";
  for (const char* name : {"smoke", "smoke.json"}) {
    const fs::path found = sweep_file(installed, name);
    EXPECT_TRUE(fs::equivalent(found, "prefix/share/tandem/suites/smoke.json")) << found;
  }
  EXPECT_TRUE(keeps_suites(installed));
  fs::create_directories("smoke");
  EXPECT_NE(sweep_file(installed, "smoke"), "smoke") << "a folder is no sweep";
  put("prefix/bin/suites/smoke.json");
  EXPECT_EQ(sweep_file(installed, "smoke"), installed / "suites" / "smoke.json")
      << "a build's own copy is nearer";
  put("smoke.json");
  EXPECT_EQ(sweep_file(installed, "smoke.json"), "smoke.json") << "a file here goes before";
  EXPECT_EQ(sweep_file(installed, "suites/none.json"), "suites/none.json") << "a path is a path";
  for (const auto& [name, said] :
       {std::pair("smok", "cannot read smok: no such file; did you mean 'smoke'?"),
        std::pair("pruning", "cannot read pruning: no such file, and no sweep of this build: smoke")}) {
    try {
      sweep_file(installed, name);
      ADD_FAILURE() << "found " << name;
    } catch (const UsageError& e) {
      EXPECT_STREQ(e.what(), said);
    }
  }
  fs::current_path(before);
}

}  // namespace
}  // namespace tandem
