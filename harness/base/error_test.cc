#include "harness/base/error.h"

#include <gtest/gtest.h>

namespace tandem {
namespace {

// The commands' exit codes hang on these.
TEST(Error, ExitCodes) {
  EXPECT_EQ(ImpossibleCase("x").exit_code(), ExitCode::kUsage);
  EXPECT_EQ(DeviceError("x").exit_code(), ExitCode::kNoDevice);
  const OutOfMemory oom(12, "gpu");
  EXPECT_EQ(oom.exit_code(), ExitCode::kFailed);
  EXPECT_STREQ(oom.what(), "out of memory: 12 bytes asked of gpu");
}

}  // namespace
}  // namespace tandem
