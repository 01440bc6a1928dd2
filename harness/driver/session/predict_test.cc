#include "harness/driver/session/predict.h"

#include <gtest/gtest.h>

#include "harness/driver/commands/commands.h"
#include "harness/run/case_cost.h"
#include "harness/run/validate.h"

namespace tandem {
namespace {

// Without it the command that is printed to continue a run could not be pasted.
TEST(Commands, ShellWordsAreQuoted) {
  EXPECT_EQ(shell_command({"tandem", "run", "a b.json", "--filter", "it's", ""}),
            "tandem run 'a b.json' --filter 'it'\\''s' ''");
}

// Without it a list shows another floor of a case than its record: at memory's rate what fits the cache.
TEST(Predict, TheFloorIsTheRecords) {
  Ceilings ceilings;
  ceilings.read_gbs = ceilings.copy_gbs = 4000;
  ceilings.l2_gbs = 8000;
  ceilings.cache_bytes = 50e6;
  ceilings.burst_tflops.fill(700);
  for (const char* model : {"tiny", "transformer-big"}) {
    Case c{.model = model, .src = 16, .tgt = 16};
    Record r = make_record(c, 0, 1);
    fill_cost(r, load_model(c.model), ceilings, ceilings.cache_bytes);
    const auto listed = predict(c, {.ceilings = ceilings, .cores = 1}).floor_us;
    ASSERT_TRUE(listed && r.floor.floor_us) << model;
    EXPECT_EQ(*listed, *r.floor.floor_us) << model;
  }
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

// Without it the check of a small lossy case would be killed while it measures the accuracy on 256 tokens.
TEST(Predict, LossyCasesHaveTimeForTheirAccuracy) {
  Case c{
      .model = "transformer-base", .src = 8, .tgt = 4, .precision = Precision::kFp32, .engine = "reference"};
  const PredictOptions options{.cores = 2};
  EXPECT_EQ(predict(c, options).accuracy_s, 0);
  c.precision = Precision::kInt8;
  EXPECT_GT(predict(c, options).accuracy_s, 30);
  EXPECT_LT(predict(c, options).validate_s, 6);
}

// Without it the listing would promise the reference's time for another size of case than the validation pass gives it.
TEST(Predict, TheReferenceChecksAtMostWhatTheValidationPassGivesIt) {
  Case c{.suite = Suite::kEncoder, .model = "transformer-big", .batch = 64, .src = 512, .engine = "cuda"};
  Case larger = c;
  larger.batch = 128;
  const PredictOptions options{.cores = 1};
  const auto on_reference_s = [&](const Case& of) {
    const Prediction p = predict(of, options);
    EXPECT_GT(*p.flops, ValidateOptions{}.reference_flops);
    // Without ceilings: the operations bind at 50 TFLOP/s, and the card computes twice.
    return p.validate_s - 2 * *p.flops / 50e12;
  };
  EXPECT_NEAR(on_reference_s(c), on_reference_s(larger), 1e-6);
  EXPECT_NEAR(on_reference_s(c), 2 * ValidateOptions{}.reference_flops / 0.5e9, 1e-6);
}

}  // namespace
}  // namespace tandem
