#include "harness/run/sampling/measure.h"

#include <gtest/gtest.h>

#include <cmath>
#include <iterator>

#include "harness/base/error.h"

namespace tandem {
namespace {

/// A workload whose repetitions take the times of a list (the last one for ever) on a clock that it moves itself.
class Scripted : public Workload {
 public:
  Scripted(std::vector<double> times_us, double* clock_s) : times_(std::move(times_us)), clock_s_(clock_s) {}
  Repetition repeat() override {
    const double t = times_[std::min(next_++, times_.size() - 1)];
    *clock_s_ += t * 1e-6;
    return {.total_us = t, .step_us = t / 2, .first_token_us = {}};
  }
  Output output() override { return {}; }
  int64_t peak_bytes() const override { return 0; }
  std::optional<double> mark_clock() override {
    if (mean_mhz.empty()) return std::nullopt;
    return mean_mhz[std::min(marks_++, mean_mhz.size() - 1)];
  }
  std::vector<double> mean_mhz;  ///< what the device's counters give at each mark; empty: it has none

 private:
  std::vector<double> times_;
  double* clock_s_;
  size_t next_ = 0, marks_ = 0;
};

class FakeClocks : public ClockReader {
 public:
  ClockBlock read() override {
    ClockBlock b;
    b.sm_mhz = mhz.at(std::min(next_++, mhz.size() - 1));
    if (throttled) b.reasons = {"sw_power_cap"};
    return b;
  }
  std::optional<bool> contended() override { return false; }
  std::vector<double> mhz = {1980};
  bool throttled = false;

 private:
  size_t next_ = 0;
};

MeasureOptions options_on(double* clock_s) {
  MeasureOptions o = default_options(EngineTraits{});
  o.now = [clock_s] { return *clock_s; };
  return o;
}

// Breaks when a rate is called a ceiling that was reached once, or when one that is never reached again is waited for.
TEST(Measure, TheBestIsReachedThreeTimes) {
  double clock = 0;
  Scripted early({120, 100, 100.4, 110, 100.1, 50}, &clock);
  EXPECT_EQ(best_us(early), 100) << "three of the best within 0.5 % are enough";
  EXPECT_DOUBLE_EQ(clock, 530.5e-6) << "five repetitions";
  clock = 0;
  std::vector<double> falling;
  for (int i = 0; i < 20; ++i) falling.push_back(200 - 5 * i);
  Scripted never(falling, &clock);
  EXPECT_EQ(best_us(never), 155) << "the tenth";
  Scripted broken({0}, &clock);
  EXPECT_THROW(best_us(broken), Error);
}

// Breaks when steady samples do not end the loop at the floor of samples and seconds.
TEST(Measure, StopsWhenTheMedianIsKnown) {
  double clock = 0;
  Scripted work({1000}, &clock);
  FakeClocks clocks;
  const Measurement m = measure(work, clocks, options_on(&clock));
  EXPECT_TRUE(m.target_reached);
  EXPECT_TRUE(m.warmup_steady);
  EXPECT_GE(m.samples_us.size(), 200u);  // 0.2 s of 1 ms
  EXPECT_LT(m.samples_us.size(), 300u);
  EXPECT_EQ(m.step_us.size(), m.samples_us.size());
  EXPECT_TRUE(m.first_token_us.empty());
}

// Breaks when a noisy case runs for ever or claims to have reached its target.
TEST(Measure, GivesUpAtTheCap) {
  double clock = 0;
  std::vector<double> times;
  for (int i = 0; i < 100000; ++i) times.push_back(i % 2 == 0 ? 1000 : 2000);
  Scripted work(times, &clock);
  FakeClocks clocks;
  const Measurement m = measure(work, clocks, options_on(&clock));
  EXPECT_FALSE(m.target_reached);
  EXPECT_LT(clock, 3.0 + 2.0 + 0.2);
}

// Breaks when warming stops while the clock still falls.
TEST(Measure, WarmsUntilTheClockIsSteady) {
  double clock = 0;
  Scripted work({1000}, &clock);
  FakeClocks clocks;
  clocks.mhz = {1980, 1900, 1800, 1700, 1600, 1500, 1410, 1410, 1410};
  const Measurement m = measure(work, clocks, options_on(&clock));
  EXPECT_TRUE(m.warmup_steady);
  EXPECT_NEAR(m.warmup_s, 0.9, 0.05);
}

// Breaks when every case of a process settles the clock anew, which was 15 of the 24.5 s of a pair of 20 cases: after the first
// one two short windows confirm it.
TEST(Measure, TheClockSettlesOnceAProcess) {
  const auto warmups_s = [](bool once, std::vector<double> mean_mhz) {
    double clock = 0;
    ClockSettling process;
    MeasureOptions options = options_on(&clock);
    if (once) options.settling = &process;
    std::vector<Measurement> cases;
    for (int i = 0; i < 20; ++i) {
      Scripted work({1000}, &clock);
      work.mean_mhz = mean_mhz;
      FakeClocks clocks;
      cases.push_back(measure(work, clocks, options));
    }
    double sum = 0;
    for (const Measurement& m : cases) {
      EXPECT_TRUE(m.warmup_steady);
      sum += m.warmup_s;
    }
    EXPECT_FALSE(cases[0].warmup_confirmed);
    EXPECT_EQ(cases[1].warmup_confirmed, once);
    return sum;
  };
  EXPECT_NEAR(warmups_s(false, {1980}), 20 * 0.3, 0.1);
  EXPECT_NEAR(warmups_s(true, {1980}), 0.3 + 19 * 0.1, 0.1) << "of a side; a pair of 20 cases saves 7.6 s";
}

// Breaks when a confirmation takes a clock for settled that moves, or the card has rested since.
TEST(Measure, AClockThatMovedSettlesAnew) {
  double clock = 0;
  ClockSettling process;
  MeasureOptions options = options_on(&clock);
  options.settling = &process;
  FakeClocks clocks;
  const auto measured = [&](std::vector<double> mean_mhz) {
    Scripted work({1000}, &clock);
    work.mean_mhz = std::move(mean_mhz);
    return measure(work, clocks, options);
  };
  EXPECT_FALSE(measured({1980}).warmup_confirmed);
  EXPECT_TRUE(measured({1700}).warmup_confirmed) << "another load has another clock; it is steady at once";
  // Marks at the start and the end of windows: 1980 and 1900 differ.
  const Measurement moved = measured({1980, 1980, 1900, 1900, 1900, 1900, 1900, 1900, 1900});
  EXPECT_FALSE(moved.warmup_confirmed);
  EXPECT_TRUE(moved.warmup_steady);
  EXPECT_NEAR(moved.warmup_s, 0.4, 0.02) << "two short windows, then three whole ones";
  clock += 3;
  EXPECT_FALSE(measured({1980}).warmup_confirmed) << "rested";
  std::vector<double> falling;
  for (int i = 0; i < 100; ++i) falling.push_back(1980 - 8 * i);
  EXPECT_FALSE(measured(falling).warmup_steady);
  EXPECT_FALSE(measured({1980}).warmup_confirmed) << "it had not settled in the case before";
}

// Breaks when a drift finer than NVML's steps of 15 MHz counts as steady though the device's own counters show it.
TEST(Measure, TheDevicesOwnCountersDecideWhetherTheClockIsSteady) {
  double clock = 0;
  Scripted work({1000}, &clock);
  // Two marks a window: at its start and at its end.
  work.mean_mhz = {1700, 1690, 1690, 1680, 1680, 1670, 1670, 1660, 1660, 1655, 1655, 1652, 1652, 1651};
  FakeClocks clocks;
  const Measurement m = measure(work, clocks, options_on(&clock));
  EXPECT_TRUE(m.warmup_steady);
  EXPECT_NEAR(m.warmup_s, 0.6, 0.05) << "1660, 1655 and 1652 lie within 0.5 %; 1670, 1660 and 1655 do not";
  for (const ClockBlock& block : m.blocks) {
    EXPECT_EQ(block.mean_sm_mhz, 1651);
    EXPECT_EQ(block.sm_mhz, 1980) << "NVML's reading is kept beside it";
  }
}

/// What NVML said of an H200 while a large encoder pass ran into the power limit: the blocks of the committed run
/// reports/baselines/h200/2026-11-23-encoder (t5-3b, 64 x 128), played back.
struct Played {
  unsigned mhz, celsius, milliwatts;
  unsigned long long reasons;
};
constexpr Played kPowerLimited[] = {{1980, 66, 310000, 0x0}, {1980, 66, 420000, 0x0},
                                    {1500, 67, 527000, 0x4}, {1500, 67, 589000, 0x4},
                                    {1305, 66, 646000, 0x4}, {1350, 64, 683000, 0x4}};
size_t g_played = 0;
unsigned g_processes = 1;

const Played& playing() {
  return kPowerLimited[std::min(g_played / 4, std::size(kPowerLimited) - 1)];  // four getters a reading
}

NvmlFunctions recording() {
  using D = NvmlFunctions::Device;
  NvmlFunctions f;
  f.device_by_index = [](unsigned, D* d) { return *d = &g_played, 0; };
  f.clock_info = [](D, int, unsigned* mhz) { return *mhz = playing().mhz, ++g_played, 0; };
  f.temperature = [](D, int, unsigned* c) { return *c = playing().celsius, ++g_played, 0; };
  f.power_usage = [](D, unsigned* mw) { return *mw = playing().milliwatts, ++g_played, 0; };
  f.clocks_event_reasons = [](D, unsigned long long* bits) {
    return *bits = playing().reasons, ++g_played, 0;
  };
  f.compute_processes = [](D, unsigned* n, NvmlFunctions::Process* out) {
    *n = g_processes;
    for (unsigned i = 0; i < g_processes; ++i) out[i] = {i + 1, 1, ~0u, ~0u};
    return 0;
  };
  return f;
}

// Breaks when what NVML says does not arrive at the block it belongs to, or a throttled sample is lost or passes for clean.
TEST(Measure, PlaysARecordedRunIntoThePowerLimit) {
  double clock = 0;
  const NvmlFunctions functions = recording();
  g_played = 0;
  g_processes = 1;
  Scripted work({30000}, &clock);
  const auto clocks = make_clock_reader(&functions, CardInfo{});
  const Measurement m = measure(work, *clocks, options_on(&clock));
  EXPECT_TRUE(m.warmup_steady);
  EXPECT_GT(m.warmup_s, 0.6) << "not before the clock stayed where the power limit had put it";
  ASSERT_FALSE(m.blocks.empty());
  int64_t samples = 0;
  for (const ClockBlock& block : m.blocks) {
    EXPECT_EQ(block.first_sample, samples);
    samples += block.samples;
    EXPECT_EQ(block.sm_mhz, 1350);
    EXPECT_EQ(block.temperature_c, 64);
    EXPECT_EQ(block.power_w, 683);
    EXPECT_EQ(block.reasons, std::vector<std::string>{"sw_power_cap"});
  }
  EXPECT_EQ(samples, static_cast<int64_t>(m.samples_us.size()));
  EXPECT_EQ(m.throttled_samples, samples) << "kept and marked";
  EXPECT_EQ(m.contended, false);
}

// Breaks when a process that comes and goes while samples are taken leaves no mark.
TEST(Measure, AContenderIsSeenAfterAnyBlock) {
  double clock = 0;
  const NvmlFunctions functions = recording();
  const auto clocks = make_clock_reader(&functions, CardInfo{});
  g_processes = 2;
  EXPECT_EQ(clocks->contended(), true);
  g_processes = 1;
  EXPECT_EQ(clocks->contended(), false);
  struct Once : FakeClocks {
    std::optional<bool> contended() override { return ++asked == 2; }
    int asked = 0;
  } once;
  Scripted plain({1000}, &clock);
  EXPECT_EQ(measure(plain, once, options_on(&clock)).contended, true);
  NoClocks none;
  Scripted cpu({1000}, &clock);
  EXPECT_FALSE(measure(cpu, none, options_on(&clock)).contended) << "absent where it cannot be told";
}

// Breaks when a record says that the clock had settled though it moved on, or was held down: what was seen counts, in the
// warm-up as in the samples.
TEST(Measure, TheClocksStateIsWhatWasSeen) {
  const auto seen = [](std::vector<double> mean_mhz, bool throttled) {
    double clock = 0;
    Scripted work({1000}, &clock);
    work.mean_mhz = std::move(mean_mhz);
    FakeClocks clocks;
    clocks.throttled = throttled;
    return measure(work, clocks, options_on(&clock));
  };
  EXPECT_EQ(seen({1980}, false).clock_state, ClockState::kSettled);
  EXPECT_EQ(seen({1980}, true).clock_state, ClockState::kThrottled);
  // Steady for the six marks of the warm-up, 2 % less at the end of each of the later blocks.
  EXPECT_EQ(seen({1980, 1980, 1980, 1980, 1980, 1980, 1980, 1980, 1980, 1980, 1940}, false).clock_state,
            ClockState::kNotSettled);
  std::vector<double> falling;
  for (int i = 0; i < 100; ++i) falling.push_back(1980 - 8 * i);
  const Measurement never = seen(falling, false);
  EXPECT_FALSE(never.warmup_steady);
  EXPECT_EQ(never.clock_state, ClockState::kNotSettled);
  double clock = 0;
  Scripted work({1000}, &clock);
  NoClocks none;
  EXPECT_FALSE(measure(work, none, options_on(&clock)).clock_state) << "no clock was read";
  EXPECT_FALSE(clock_state({}, true, 0.005));
}

// Breaks when cycles are a mean over blocks, in other units, or are made up where the device counts nothing.
TEST(Measure, CyclesAreTheBlocksClockTimesItsTime) {
  double clock = 0;
  Scripted work({1000}, &clock);
  work.mean_mhz = {1980};
  FakeClocks clocks;
  EXPECT_EQ(measure(work, clocks, options_on(&clock)).sm_cycles, 1.98e6);
  Scripted plain({1000}, &clock);
  EXPECT_FALSE(measure(plain, clocks, options_on(&clock)).sm_cycles);
}

// Breaks when throttled samples are dropped or not counted.
TEST(Measure, KeepsAndMarksThrottledSamples) {
  double clock = 0;
  Scripted work({1000}, &clock);
  FakeClocks clocks;
  clocks.throttled = true;
  const Measurement m = measure(work, clocks, options_on(&clock));
  EXPECT_EQ(m.throttled_samples, static_cast<int64_t>(m.samples_us.size()));
}

// Breaks when a duet's shorter sampling does not reach its workers, or a typing error in it goes unnoticed.
TEST(Measure, TheEnvironmentSetsHowLongSamplesAreTaken) {
  for (const EngineTraits engine : {EngineTraits{}, EngineTraits{.on_host = true}}) {
    ::setenv("TANDEM_SAMPLE_SECONDS", "0.1:0.5", 1);
    EXPECT_EQ(default_options(engine).stop.min_s, 0.1);
    EXPECT_EQ(default_options(engine).stop.max_s, 0.5);
    for (const char* bad : {"", "0.1", "0.5:0.1", "a:b", "0.1:0.5s", ":", "0:0", "-1:1", "0.1:"}) {
      ::setenv("TANDEM_SAMPLE_SECONDS", bad, 1);
      EXPECT_THROW(default_options(engine), UsageError) << bad;
    }
    ::unsetenv("TANDEM_SAMPLE_SECONDS");
  }
}

// Breaks when a broken clock (zero, NaN) becomes a sample.
TEST(Measure, RefusesTimesThatAreNotTimes) {
  double clock = 0;
  FakeClocks clocks;
  Scripted zero({0}, &clock);
  EXPECT_THROW(measure(zero, clocks, options_on(&clock)), Error);
  Scripted nan({NAN}, &clock);
  EXPECT_THROW(measure(nan, clocks, options_on(&clock)), Error);
}

}  // namespace
}  // namespace tandem
