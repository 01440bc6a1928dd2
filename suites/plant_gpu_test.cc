// The slow-down of a build made to test a gate, on a card.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "kernels/engine/cuda_engine.h"
#include "kernels/runtime/planted.h"
#include "suites/engines.h"
#include "suites/testing/planted_pairs.h"

namespace tandem {
namespace {

class PlantedCard : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string reason;
    if (!kernels::cuda_usable(0, &reason)) GTEST_SKIP() << reason;
    kernels::make_plant_possible();
    ::setenv("TANDEM_SAMPLE_SECONDS", "0.1:0.5", 1);
  }
  /// The bar: 20 labelled pairs are within 0.2 points of 2 %, or two standard errors where that is more.
  void expect_two_percent(Suite suite, const char* model, int batch, int src, int tgt) {
    Case c;
    c.suite = suite;
    c.model = model;
    c.batch = batch;
    c.src = src;
    c.tgt = tgt;
    c.engine = "cuda";
    const auto found = testing::planted_pairs(engine_registry(), c, 2, 20);
    std::printf("%s: %.3f %% of 2 planted, standard error %.3f\n", case_name(c).c_str(), found.percent,
                found.standard_error);
    EXPECT_NEAR(found.percent, 2, std::max(0.2, 2 * found.standard_error)) << case_name(c);
    EXPECT_LT(found.standard_error, 0.3) << case_name(c) << ": the test would see nothing";
  }
};

// Breaks when what a launch costs is not counted: in a short step it is a percent.
TEST_F(PlantedCard, AShortStepGrowsByTwoPercent) {
  expect_two_percent(Suite::kDecoder, "transformer-base", 1, 64, 64);
}

// Breaks when the work has another power than the case, and the clock of a card at its power limit answers.
TEST_F(PlantedCard, AnEncoderAtThePowerLimitGrowsByTwoPercent) {
  expect_two_percent(Suite::kEncoder, "transformer-big", 8, 256, 1);
}

// Breaks when planted work changes what the case computes: the digest after timing is compared with the checked one.
TEST_F(PlantedCard, AGenerationComputesTheSame) {
  Case c;
  c.suite = Suite::kGenerate;
  c.model = "tiny";
  c.batch = 2;
  c.src = 16;
  c.tgt = 24;
  c.engine = "cuda";
  const auto found = testing::planted_pairs(engine_registry(), c, 20, 2);
  EXPECT_NEAR(found.percent, 20, 4);
}

}  // namespace
}  // namespace tandem
