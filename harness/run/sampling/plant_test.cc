// On a clock of its own: how far is what was planted from what was asked for?
#include "harness/run/sampling/plant.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "harness/base/error.h"
#include "harness/base/stats.h"
#include "harness/run/sampling/measure.h"

namespace tandem {
namespace {

/// How a case and its card behave. Times in microseconds.
struct Nature {
  double case_us = 1000;
  double launch_us = 0;      ///< what any planted work costs beside its units
  double unit_us = 0.06;     ///< of work at full clock
  double noise = 0.002;      ///< standard deviation of a repetition, relative
  double drift = 0;          ///< of the clock, relative, in a second
  double spikes = 0;         ///< share of repetitions that take half as long again
  double work_power = 1;     ///< of the planted work, the case's own being 1
  bool power_limit = false;  ///< the clock follows the mean power of the last 30 ms
};

/// A process of it: where its memory lies moves all of its times by up to a percent.
class Process : public Workload {
 public:
  Process(const Nature& nature, uint64_t seed) : nature_(nature), random_(seed) {
    place_ = std::exp(0.003 * normal_(random_));
  }
  Repetition repeat() override {
    const double extra = amount_ > 0 ? nature_.launch_us + nature_.unit_us * amount_ : 0;
    const double at_full_clock = nature_.case_us * place_ + extra;
    const double power = (nature_.case_us + nature_.work_power * extra) / (nature_.case_us + extra);
    double time = at_full_clock * (1 + nature_.drift * seconds) * std::exp(nature_.noise * normal_(random_));
    if (nature_.power_limit) time *= 1 + 0.4 * (power_ - 1);
    if (uniform_(random_) < nature_.spikes) time *= 1.5;
    power_ += (power - power_) * (1 - std::exp(-time * 1e-6 / 0.03));
    seconds += time * 1e-6;
    return {.total_us = time, .step_us = {}, .first_token_us = {}};
  }
  bool plant(double amount) override {
    amount_ = std::round(amount);
    return true;
  }
  Output output() override { return {}; }
  int64_t peak_bytes() const override { return 0; }

  double seconds = 0;

 private:
  Nature nature_;
  std::mt19937_64 random_;
  std::normal_distribution<double> normal_;
  std::uniform_real_distribution<double> uniform_;
  double place_ = 1, power_ = 1, amount_ = 0;
};

PlantOptions on_clock_of(const Process& process) {
  PlantOptions options = plant_options(EngineTraits{});
  options.now = [&process] { return process.seconds; };
  return options;
}

double median_us(Process& process) {
  NoClocks none;
  MeasureOptions options = default_options(EngineTraits{});
  options.now = [&process] { return process.seconds; };
  return median(measure(process, none, options).samples_us);
}

struct Growth {
  double percent = 0, standard_error = 0;
};

/// Of 20 labelled pairs of processes: the mean log-ratio.
Growth pairs(const Nature& nature, double percent) {
  constexpr int kPairs = 20;
  double sum = 0, squares = 0;
  for (uint64_t i = 0; i < kPairs; ++i) {
    // The place is the pair's: the plant is what this measures.
    Process plain(nature, i), planted(nature, i);
    plant(planted, percent, on_clock_of(planted));
    if (nature.drift == 0) planted.seconds = 0;
    const double log = std::log(median_us(planted) / median_us(plain));
    sum += log;
    squares += log * log;
  }
  const double mean = sum / kPairs;
  return {.percent = 100 * std::expm1(mean),
          .standard_error = 100 * std::sqrt((squares / kPairs - mean * mean) / (kPairs - 1))};
}

/// The bar: within 0.2 points of what was asked for, or two standard errors of 20 labelled pairs where that is more.
void expect_planted(const char* what, const Nature& nature) {
  for (const double percent : {2.0, 5.0, 10.0}) {
    const Growth grown = pairs(nature, percent);
    EXPECT_NEAR(grown.percent, percent, std::max(0.2, 2 * grown.standard_error))
        << what << ": " << percent << " %, standard error " << grown.standard_error;
    EXPECT_LT(grown.standard_error, 0.2) << what << ": the test would see nothing";
  }
}

// Breaks when the plant is no longer measured in the process, or what starting the work costs is not counted: of a step of
// 150 us a launch is a percent.
TEST(Plant, IsTheGrowthOfTheCasesOwnMedian) {
  expect_planted("a plain case", {});
  expect_planted("a step of 150 us", {.case_us = 150, .launch_us = 1.3});
  expect_planted("a noisy case with spikes", {.case_us = 2000, .noise = 0.01, .spikes = 0.05});
  expect_planted("a long case of coarse units", {.case_us = 30000, .unit_us = 0.5});
}

// Breaks when a block is shorter than the time in which a power limit answers: work of another power moves the clock of the
// whole case (a planted 2 % that slept was 0.7 % on a capped card).
TEST(Plant, AtThePowerLimitTheClocksAnswerCounts) {
  expect_planted("capped, work of the same power", {.case_us = 2300, .power_limit = true});
  expect_planted("capped, work of less power", {.case_us = 2300, .work_power = 0.8, .power_limit = true});
}

// Breaks when the order of the blocks lets a drift of the clock count as growth.
TEST(Plant, ADriftOfTheClockCancels) {
  Process process({.noise = 0.0005, .drift = 0.02}, 3);
  const PlantedRow row = plant(process, 2, on_clock_of(process));
  // 2 % of 1000 us are 333 units of 0.06 us.
  EXPECT_NEAR(row.amount, 333, 33);
}

// Breaks when a case too short for the asked share is planted with nothing, or the record claims what was asked for.
TEST(Plant, TheLeastWorkIsSaid) {
  Process process({.case_us = 40, .launch_us = 1.6, .noise = 0.0005}, 5);
  const PlantedRow row = plant(process, 2, on_clock_of(process));
  EXPECT_EQ(row.percent, 2);
  EXPECT_EQ(row.amount, 1);
  EXPECT_NEAR(row.grown_percent, 4.15, 0.3);
}

// Breaks when an engine that cannot plant passes for a planted build: its duets would count as missed slow-downs.
TEST(Plant, AnEngineWithoutItIsAnError) {
  struct Bare : Process {
    using Process::Process;
    bool plant(double) override { return false; }
  } bare({}, 1);
  EXPECT_THROW(plant(bare, 2, on_clock_of(bare)), Error);
  struct Idle : Process {
    using Process::Process;
    bool plant(double) override { return true; }
  } idle({}, 1);
  EXPECT_THROW(plant(idle, 2, on_clock_of(idle)), Error) << "work that takes no time";
}

}  // namespace
}  // namespace tandem
