#include <fmt/format.h>

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

}  // namespace
}  // namespace tandem
