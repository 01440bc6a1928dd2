#include "harness/engine/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "harness/base/error.h"
#include "harness/model/model_spec.h"
#include "harness/weights/calibration/calibrated.h"
#include "harness/weights/materialise.h"
#include "harness/weights/weights.h"

namespace tandem {

namespace {

/// Of logits [steps * sequences, vocab]: summed over the steps, a number a sequence.
std::vector<double> squared_errors(const std::vector<float>& got, const std::vector<float>& truth,
                                   int vocab) {
  std::vector<double> sums(kCalibrationSequences, 0);
  for (size_t i = 0; i < truth.size(); ++i) {
    const double error = double{got[i]} - truth[i];
    sums[i / static_cast<size_t>(vocab) % sums.size()] += error * error;
  }
  return sums;
}

/// By kLeastGain and kDeviations.
bool pays(const std::vector<double>& with, const std::vector<double>& without) {
  double all_with = 0, all_without = 0, mean = 0, variance = 0;
  const auto n = static_cast<double>(with.size());
  std::vector<double> logs;
  for (size_t s = 0; s < with.size(); ++s) {
    all_with += with[s];
    all_without += without[s];
    logs.push_back(std::log(with[s] / without[s]) / 2);
    mean += logs.back() / n;
  }
  for (const double log : logs) variance += (log - mean) * (log - mean) / (n - 1);
  return std::sqrt(all_with) <= kLeastGain * std::sqrt(all_without) &&
         mean + kDeviations * std::sqrt(variance / n) <= std::log(kLeastGain);
}

}  // namespace

CalibrationBatch calibration_batch(const ModelConfig& config) {
  const auto held = [&](int tokens) { return std::min(tokens, position_limit(config).value_or(tokens)); };
  const int steps = held(kCalibrationSteps);
  return {.source = make_batch(config, std::vector<int32_t>(kCalibrationSequences, held(kCalibrationSource)),
                               kCalibrationSeed),
          .tokens = decoder_prefix(config, kCalibrationSequences, steps, kCalibrationSeed),
          .steps = steps};
}

InputObserver::InputObserver(const WeightLayout& calibrated, const WeightLayout& dense, const void* base) {
  for (const ScaledInput& input : scaled_inputs(calibrated)) {
    // A tied head is a matrix of its own in the calibrated form alone.
    const void* address = dense.contains(input.name())
                              ? static_cast<const std::byte*>(base) + dense.at(input.name()).offset
                              : bind_weights(dense, base).decoder.head.weight.data;
    names_.emplace(address, input.name());
  }
}

InputStats* InputObserver::of(const void* weight) {
  const auto found = names_.find(weight);
  return found == names_.end() ? nullptr : &stats_[found->second];
}

Case in_fp32(Case c) {
  c.precision = Precision::kFp32;
  c.kv = "same";
  c.calibration = "none";
  c.head = "same";
  return c;
}

std::shared_ptr<const ChannelScales> calibrate(Engine& engine, const Case& c, const ModelConfig& config,
                                               const WeightForm& form, const WeightSource& source) {
  const CalibrationBatch batch = calibration_batch(config);
  const auto logits = [&] { return engine.forced_logits(batch.source, batch.tokens, batch.steps).values; };
  Case each = c;  // whatever kernels and caches the cases of a group have, its weights are the same
  each.kernel = "auto";
  each.kv = "same";

  Case dense = in_fp32(each);
  dense.sparsity = "dense";
  engine.load(dense, config, weight_form(dense));
  const WeightLayout layout = weight_layout(config, form);
  auto scales =
      std::make_shared<ChannelScales>(choose_scales(source, layout, engine.observed_inputs(layout)));
  if (scales->exponents.empty()) return scales;

  const std::vector<float> truth = logits();
  const auto errors = [&](const WeightForm& of) {
    engine.load(each, config, of);
    return squared_errors(logits(), truth, config.vocab);
  };
  each.precision = form.precision;
  WeightForm bare = form;
  bare.calibration = Calibration::kNone;
  const std::vector<double> without = errors(bare);
  engine.use_scales(scales);
  if (pays(errors(form), without)) return scales;
  scales = std::make_shared<ChannelScales>(*scales);
  scales->exponents.clear();
  return scales;
}

void load_case(Engine& engine, const Case& c, const ModelConfig& config, const WeightForm& form) {
  if (form.calibration != Calibration::kNone) {
    const auto source = weight_source(parse_weights(c.weights), c.model);
    const auto& held = engine.scales();
    if (held == nullptr || held->of != scales_key(*source, weight_layout(config, form)))
      engine.use_scales(calibrate(engine, c, config, form, *source));
  }
  engine.load(c, config, form);
}

std::unique_ptr<WeightSource> values_of_form(std::unique_ptr<WeightSource> source, const WeightLayout& layout,
                                             const ChannelScales* scales) {
  if (layout.form.calibration == Calibration::kNone) return source;
  if (scales == nullptr)
    throw Error(fmt::format("calibration: '{}' was loaded before its scales", form_text(layout.form)));
  return std::make_unique<CalibratedSource>(std::move(source), layout, *scales);
}

}  // namespace tandem
