// Taking samples: warm up until steady, then repeat in blocks until the median is known well enough.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "harness/engine/engine.h"
#include "harness/record/record.h"
#include "harness/run/sampling/clocks.h"

namespace tandem {

/// When to stop. The rule holds once min_samples and min_s are reached and the half width of the 95 % interval of the
/// median (blocked_median_interval, of blocks of one sample or more) is at most target of the median; max_samples or max_s end it anyway.
struct StoppingRule {
  double target = 0.0025;
  int64_t min_samples = 10;
  int64_t max_samples = 5000;
  double min_s = 0.2;
  double max_s = 2.0;
};

/// Warm until three windows of window_s agree within `agreement` in clock, for at most max_s: in the mean clock that the
/// device counts, where the engine reads it; else in NVML's reading, whose step of 15 MHz is coarser than `agreement`; without
/// clocks in median time. At least one repetition. A single repetition longer than max_s is enough.
struct WarmupRule {
  double window_s = 0.1;
  double agreement = 0.005;
  double max_s = 3.0;
};

/// What a process knows of its card from the cases before. A clock that has settled under load needs no second settling: a
/// case confirms it by two windows of half the length that agree. Where they do not, or nothing ran for idle_s, it warms up
/// as the first one does.
struct ClockSettling {
  bool settled = false;
  double last_work_s = 0;  ///< on MeasureOptions::now
  static constexpr double kIdle_s = 2;
};

struct MeasureOptions {
  WarmupRule warmup;
  StoppingRule stop;
  double block_s = 0.05;              ///< NVML is read after every block
  ClockSettling* settling = nullptr;  ///< of the process; null: every case settles for itself
  /// Seconds since some fixed point; tests put a fake one here.
  std::function<double()> now;
};

struct Measurement {
  std::vector<float> samples_us;
  std::vector<float> step_us;  ///< one a sample where the engine gives it
  std::vector<float> first_token_us;
  int64_t warmup_repetitions = 0;
  double warmup_s = 0;
  bool warmup_steady = false;
  bool warmup_confirmed =
      false;  ///< the clock had settled in a case before, and two windows agreed with that
  bool target_reached = false;
  std::vector<ClockBlock> blocks;
  int64_t throttled_samples = 0;
  std::optional<ClockState> clock_state;
  std::optional<double> sm_cycles;  ///< Metrics::sm_cycles
  /// Was somebody else's process on the card after any block? Absent where that could never be told.
  std::optional<bool> contended;
};

/// Options for an engine: one on the CPU repeats less. TANDEM_SAMPLE_SECONDS=MIN:MAX in the environment sets how long
/// samples are taken (a duet takes fewer in more processes). Throws UsageError for a value that is no such range.
MeasureOptions default_options(EngineTraits engine);

/// Throws what the workload throws, and Error for a repetition of no or negative time.
Measurement measure(Workload& workload, ClockReader& clocks, const MeasureOptions& options);

/// Until the best time was reached `times` times within `agreement`, or the workload repeated `most` times.
struct BestRule {
  size_t times = 3;
  double agreement = 0.005;
  size_t most = 10;
};
/// The shortest repetition, us, without warm-up. Throws what measure throws.
double best_us(Workload& workload, const BestRule& rule = {});

}  // namespace tandem
