#include "harness/driver/session/predict.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "harness/engine/calibration.h"
#include "harness/run/accuracy.h"
#include "harness/run/case_cost.h"
#include "harness/run/sampling/measure.h"
#include "harness/run/validate.h"
#include "harness/weights/weights.h"

namespace tandem {
namespace {

constexpr double kCpuFlops = 0.5e9;         // of the reference, a core
constexpr double kCpuSeededWeights = 20e6;  // elements a core makes and rounds in a second
constexpr double kGpuOverFloor = 3;         // what a first implementation takes over its floor
constexpr double kGpuFlops = 50e12;         // without ceilings: of a large card, far below its best
constexpr double kGpuBytes = 1e12;
constexpr double kGpuStep_us = 300;  // launches of one pass
constexpr double kStartCpu_s = 0.05;
constexpr double kStartCuda_s = 1.5;    // a context and the libraries
constexpr double kOperation_us = 5000;  // of the suites of single operations

bool on_cpu(const Case& c) {
  return engine_traits(c.engine).on_host;
}

double repetition_us(const Case& c, const Prediction& p, const PredictOptions& options) {
  if (!p.flops) return kOperation_us;
  if (on_cpu(c)) return *p.flops / (kCpuFlops * options.cores) * 1e6;
  if (p.floor_us) return *p.floor_us * kGpuOverFloor;
  const int passes = c.suite == Suite::kGenerate ? c.tgt : 1;
  return std::max({*p.flops / kGpuFlops * 1e6, *p.bytes / kGpuBytes * 1e6, passes * kGpuStep_us});
}

}  // namespace

Prediction predict(const Case& c, const PredictOptions& options) {
  Prediction p;
  p.start_s = on_cpu(c) ? kStartCpu_s : kStartCuda_s;
  const ModelConfig config = load_model(c.model);
  if (is_model_suite(c.suite)) {
    const std::optional<double> kept = expected_products_kept(c, config);
    const Cost cost = case_cost(c, config, kept);
    p.flops = cost.flops();
    p.bytes = cost.bytes();
    if (options.ceilings && kept) {
      if (const auto floor = case_floor(cost, *options.ceilings, options.ceilings->cache_bytes))
        p.floor_us = floor->us;
    }
  }
  if (c.suite != Suite::kLimits && c.suite != Suite::kKernels && c.suite != Suite::kCollectives) {
    p.load_s = static_cast<double>(weight_layout(config).size()) / (kCpuSeededWeights * options.cores);
  }
  const double once_s = repetition_us(c, p, options) * 1e-6;
  const MeasureOptions measure = default_options(engine_traits(c.engine));
  const auto samples = static_cast<double>(measure.stop.min_samples);
  p.measure_s = std::max(3 * measure.warmup.window_s, once_s) +
                std::max({measure.stop.min_s, samples * once_s, std::min(measure.stop.max_s, 100 * once_s)}) +
                once_s;
  if (on_cpu(c)) {
    // The second way of the reference decodes without a cache: every step computes all the steps before it again.
    p.validate_s = once_s * (c.suite == Suite::kGenerate ? 1 + c.tgt / 2.0 : 3);
  } else {
    // The reference computes the case or its witness.
    const double reference_flops = std::min(p.flops.value_or(0), ValidateOptions{}.reference_flops);
    p.validate_s = 2 * once_s + 2 * reference_flops / (kCpuFlops * options.cores);
  }
  if (is_model_suite(c.suite) && is_lossy(c)) {
    // Two models, each loaded, generating and fed a text.
    const Case accuracy = in_fp32(accuracy_case(c));
    const Cost cost = case_cost(accuracy, config);
    Prediction pass;
    pass.flops = cost.flops();
    pass.bytes = cost.bytes();
    p.accuracy_s = 2 * p.load_s + 4e-6 * repetition_us(accuracy, pass, options);
  }
  return p;
}

double default_timeout_s(double predicted_s) {
  return std::max(60.0, 10 * predicted_s);
}

std::string show_duration(double seconds) {
  const auto s = static_cast<int64_t>(std::ceil(seconds));
  if (s >= 3600) return fmt::format("{} h {:02} min", s / 3600, s % 3600 / 60);
  if (s >= 60) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} s", s);
}

std::string show_us(double us) {
  if (us >= 1e6) return fmt::format("{:.3g} s", us * 1e-6);
  if (us >= 1e3) return fmt::format("{:.3g} ms", us * 1e-3);
  return fmt::format("{:.3g} us", us);
}

}  // namespace tandem
