#include "harness/driver/session/predict.h"

#include <gtest/gtest.h>

#include "harness/driver/commands/commands.h"

namespace tandem {
namespace {

// Without it the command that is printed to continue a run could not be pasted.
TEST(Commands, ShellWordsAreQuoted) {
  EXPECT_EQ(shell_command({"tandem", "run", "a b.json", "--filter", "it's", ""}),
            "tandem run 'a b.json' --filter 'it'\\''s' ''");
}

// Without it a large case on a CPU would be killed as hanging.
TEST(Predict, TimeOutsGrowWithTheCase) {
  Case small{.suite = Suite::kEncoder, .model = "tiny", .precision = Precision::kFp32, .engine = "reference"};
  Case large = small;
  large.model = "transformer-big";
  large.batch = 8;
  const PredictOptions options{.cores = 2};
  EXPECT_EQ(default_timeout_s(predict(small, options).measure_s), 60);
  EXPECT_GT(default_timeout_s(predict(large, options).measure_s), 600);
  EXPECT_FALSE(predict(small, options).floor_us);
  EXPECT_EQ(show_duration(3725), "1 h 02 min");
  EXPECT_EQ(show_duration(200), "3 min 20 s");
  EXPECT_EQ(show_us(812.4), "812 us");
}

}  // namespace
}  // namespace tandem
