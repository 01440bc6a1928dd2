#include "harness/run/sampling/measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>

#include "harness/base/error.h"
#include "harness/base/phase.h"
#include "harness/base/stats.h"

namespace tandem {
namespace {

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Repetition checked(Workload& workload) {
  const Repetition r = workload.repeat();
  if (!(r.total_us > 0) || !std::isfinite(r.total_us)) {
    throw Error(fmt::format("a repetition took {} us: the engine's clock is broken", r.total_us));
  }
  return r;
}

/// Repeats for a window; its mean clock, else NVML's reading at its end, else its median time.
double warm_window(Workload& workload, ClockReader& clocks, const MeasureOptions& options, double window_s,
                   Measurement& m) {
  std::vector<float> times;
  workload.mark_clock();
  const double start = options.now();
  do {
    times.push_back(static_cast<float>(checked(workload).total_us));
    ++m.warmup_repetitions;
  } while (options.now() - start < window_s);
  const std::optional<double> mean_mhz = workload.mark_clock();
  return mean_mhz ? *mean_mhz : clocks.read().sm_mhz.value_or(median(times));
}

void warm_up(Workload& workload, ClockReader& clocks, const MeasureOptions& options, Measurement& m) {
  const WarmupRule& rule = options.warmup;
  const double start = options.now();
  ClockSettling none;
  ClockSettling& process = options.settling != nullptr ? *options.settling : none;
  std::vector<double> windows;
  if (process.settled && start - process.last_work_s <= ClockSettling::kIdle_s) {
    for (int i = 0; i < 2; ++i)
      windows.push_back(warm_window(workload, clocks, options, rule.window_s / 2, m));
    m.warmup_confirmed = m.warmup_steady = last_agree(windows, 2, rule.agreement);
    windows.clear();
  }
  while (!m.warmup_steady) {
    windows.push_back(warm_window(workload, clocks, options, rule.window_s, m));
    m.warmup_steady = last_agree(windows, 3, rule.agreement);
    if (options.now() - start >= rule.max_s) break;
  }
  process.settled = m.warmup_steady;
  m.warmup_s = options.now() - start;
}

/// Half width of the 95 % interval of the median over the median, or infinity under ten samples. To stop by: an interval that
/// is stated needs blocks of several samples.
double relative_half_width(const std::vector<float>& samples) {
  const auto interval = blocked_median_interval(std::span<const float>(samples), 1);
  return interval ? (interval->hi - interval->lo) / 2 / median(samples) : INFINITY;
}

/// Absent where a block has no mean clock.
std::optional<double> cycles_of(const Measurement& m) {
  std::vector<double> cycles;
  for (const ClockBlock& block : m.blocks) {
    if (!block.mean_sm_mhz) return std::nullopt;
    const auto first = m.samples_us.begin() + block.first_sample;
    cycles.push_back(*block.mean_sm_mhz * median(std::vector<float>(first, first + block.samples)));
  }
  return median(std::move(cycles));
}

}  // namespace

MeasureOptions default_options(EngineTraits engine) {
  MeasureOptions options;
  options.now = steady_seconds;
  if (engine.on_host) {
    options.warmup = {.window_s = 0.02, .agreement = 0.05, .max_s = 0.2};
    options.stop = {.target = 0.02, .min_samples = 5, .max_samples = 200, .min_s = 0.05, .max_s = 1.0};
  }
  if (const char* range = std::getenv("TANDEM_SAMPLE_SECONDS")) {
    char* end = nullptr;
    options.stop.min_s = std::strtod(range, &end);
    const bool first = end != range && *end == ':';
    const char* second = end + 1;
    options.stop.max_s = first ? std::strtod(second, &end) : 0;
    const bool good = first && end != second && *end == '\0' && options.stop.min_s >= 0 &&
                      options.stop.max_s >= options.stop.min_s && options.stop.max_s > 0;
    if (!good) {
      throw UsageError(
          fmt::format("TANDEM_SAMPLE_SECONDS: '{}' is not allowed; MIN:MAX such as 0.1:0.5", range));
    }
  }
  return options;
}

Measurement measure(Workload& workload, ClockReader& clocks, const MeasureOptions& options) {
  Measurement m;
  warm_up(workload, clocks, options, m);
  const MarkedRange samples("samples");
  const StoppingRule& rule = options.stop;
  const double start = options.now();
  for (;;) {
    const auto first = static_cast<int64_t>(m.samples_us.size());
    workload.mark_clock();
    const double block_start = options.now();
    do {
      const Repetition r = checked(workload);
      m.samples_us.push_back(static_cast<float>(r.total_us));
      if (r.step_us) m.step_us.push_back(static_cast<float>(*r.step_us));
      if (r.first_token_us) m.first_token_us.push_back(static_cast<float>(*r.first_token_us));
    } while (options.now() - block_start < options.block_s &&
             static_cast<int64_t>(m.samples_us.size()) < rule.max_samples);
    const std::optional<double> mean_mhz = workload.mark_clock();
    ClockBlock block = clocks.read();
    block.mean_sm_mhz = mean_mhz;
    if (const auto contended = clocks.contended()) m.contended = m.contended.value_or(false) || *contended;
    const auto n = static_cast<int64_t>(m.samples_us.size());
    block.first_sample = first;
    block.samples = n - first;
    if (!block.reasons.empty()) m.throttled_samples += block.samples;
    m.blocks.push_back(std::move(block));

    const double elapsed = options.now() - start;
    if (n >= rule.min_samples && elapsed >= rule.min_s && relative_half_width(m.samples_us) <= rule.target) {
      m.target_reached = true;
      break;
    }
    if (n >= rule.max_samples || elapsed >= rule.max_s) break;
  }
  if (options.settling != nullptr) options.settling->last_work_s = options.now();
  m.clock_state = clock_state(m.blocks, m.warmup_steady, options.warmup.agreement);
  m.sm_cycles = cycles_of(m);
  return m;
}

double best_us(Workload& workload, const BestRule& rule) {
  std::vector<double> us;
  while (us.size() < rule.most) {
    us.push_back(checked(workload).total_us);
    std::ranges::sort(us, std::greater());
    if (last_agree(us, rule.times, rule.agreement)) break;
  }
  return us.back();
}

}  // namespace tandem
