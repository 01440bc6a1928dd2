// The slow-down of a build made to test a gate, on the reference: real work. Time is this thread's on a CPU, not the wall's, so
// that other work on the machine hardly counts; the wall's is tested on a card (plant_gpu_test.cc), and the arithmetic on a clock
// of its own (harness/run/sampling/plant_test.cc).
#include <gtest/gtest.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "harness/base/stats.h"
#include "harness/engine/calibration.h"
#include "harness/run/sampling/plant.h"
#include "suites/engines.h"

namespace tandem {
namespace {

double cpu_seconds() {
  timespec t{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// A workload of the reference by the CPU's time.
class CpuTimed : public Workload {
 public:
  CpuTimed(Engine& engine, const Case& c, const TransformerBatch& batch) : own_(engine.prepare(c, batch)) {}
  Repetition repeat() override {
    const double start = cpu_seconds();
    own_->repeat();
    return {.total_us = 1e6 * (cpu_seconds() - start), .step_us = {}, .first_token_us = {}};
  }
  bool plant(double amount) override { return own_->plant(amount); }
  Output output() override { return own_->output(); }
  int64_t peak_bytes() const override { return own_->peak_bytes(); }

 private:
  std::unique_ptr<Workload> own_;
};

/// By what share the second is slower: the median over neighbouring repetitions, of which each goes first in turn. What slows
/// the machine down for longer than two repetitions slows both.
double growth(CpuTimed& plain, CpuTimed& planted, double seconds) {
  std::vector<double> logs;
  const double start = cpu_seconds();
  do {
    double us[2] = {};
    const bool turned = logs.size() % 2 == 1;
    for (const bool side : {turned, !turned}) us[side] = (side ? planted : plain).repeat().total_us;
    logs.push_back(std::log(us[1] / us[0]));
  } while (cpu_seconds() - start < seconds);
  return std::expm1(median(std::move(logs)));
}

Case tiny(Suite suite) {
  Case c;
  c.suite = suite;
  c.model = "tiny";
  c.batch = 1;
  c.src = 32;
  c.tgt = 8;
  c.engine = "reference";
  c.precision = Precision::kFp32;
  return c;
}

// Breaks when the reference's planted work is optimised away, is done outside of the timed pass, or is asked for in other units
// than it is done in. By hand, on a machine that does nothing else: TANDEM_PLANT_PAIRS=20.
TEST(PlantedReference, TheMedianGrowsByWhatWasAskedFor) {
  const char* given = std::getenv("TANDEM_PLANT_PAIRS");
  const int pairs = given != nullptr ? std::atoi(given) : 6;
  constexpr double kPercent = 10;
  for (const Suite suite : {Suite::kEncoder, Suite::kGenerate}) {
    const Case c = tiny(suite);
    const ModelConfig config = load_model(c.model);
    const auto engine = engine_registry().make(c.engine, {});
    load_case(*engine, c, config, weight_form(c));
    const TransformerBatch batch = case_batch(c, config);
    PlantOptions options = plant_options(engine->traits());
    options.now = cpu_seconds;
    options.max_s = 0.5;
    std::vector<double> grown;
    Output before, after;
    for (int pair = 0; pair < pairs; ++pair) {
      CpuTimed plain(*engine, c, batch), planted(*engine, c, batch);
      const PlantedRow row = plant(planted, kPercent, options);
      EXPECT_EQ(row.percent, kPercent);
      EXPECT_GT(row.amount, 0);
      grown.push_back(100 * growth(plain, planted, 0.3));
      before = plain.output();
      after = planted.output();
    }
    EXPECT_EQ(before.values, after.values);
    EXPECT_EQ(before.tokens, after.tokens) << "beside the work, not in it";
    const double middle = median(grown), error = median_error(grown);
    std::printf("%s: %.3f %% of %g planted, standard error %.3f\n", std::string(suite_name(suite)).c_str(),
                middle, kPercent, error);
    // A test that runs each day, on machines that do other work, must not fail by chance: beside four busy processes the six
    // gave 9.0 to 11.8 on two cores. Twenty pairs by hand are held to the bar.
    EXPECT_NEAR(middle, kPercent, given != nullptr ? std::max(0.2, 2 * error) : kPercent / 2)
        << "standard error " << error;
  }
}

}  // namespace
}  // namespace tandem
