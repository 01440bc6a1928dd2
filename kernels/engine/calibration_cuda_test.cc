// Calibrated forms on a card against the reference's.
#include <gtest/gtest.h>

#include "harness/engine/calibration.h"
#include "kernels/engine/engine_test_util.h"
#include "reference/engine/reference_engine.h"

namespace tandem::kernels {
namespace {

/// Pre-norm, gated, with a head of its own: every kind of input that scales reach.
ModelConfig model() {
  ModelConfig c = preset("tiny");
  c.placement = NormPlacement::kPre;
  c.final_norm = true;
  c.gated = true;
  return c;
}

Case case_in(Precision precision, const std::string& calibration) {
  Case c;
  c.model = "tiny";
  c.batch = 8;
  c.precision = precision;
  c.calibration = calibration;
  c.weights = "seed:5,outliers";
  return c;
}

// Breaks when a product's rows are read before they are there, or another product's: the scales would be of nothing.
TEST(CalibrationCuda, SeesWhatTheReferenceSees) {
  TANDEM_NEED_DEVICE();
  const ModelConfig config = model();
  const Case c = case_in(Precision::kFp32, "none");
  const WeightLayout layout =
      weight_layout(config, {.precision = Precision::kInt8, .calibration = Calibration::kSmoothQuant});
  CudaEngine engine({.search_choices = false});
  reference::ReferenceEngine reference;
  engine.load(c, config, {});
  reference.load(c, config, {});
  const CalibrationStats got = engine.observed_inputs(layout), want = reference.observed_inputs(layout);
  ASSERT_EQ(got.size(), scaled_inputs(layout).size());
  ASSERT_EQ(want.size(), got.size());
  for (const auto& [name, stats] : want) {
    const InputStats& own = got.at(name);
    EXPECT_EQ(own.rows, stats.rows) << name;
    EXPECT_LT(relative_l2(own.largest, stats.largest), 1e-4) << name;
    EXPECT_LT(relative_l2(own.sample, stats.sample), 1e-4) << name;
  }
}

// Breaks when the card holds other values of a calibrated form than the reference with the same scales.
TEST(CalibrationCuda, HoldsTheReferencesValues) {
  TANDEM_NEED_DEVICE();
  const ModelConfig config = model();
  for (const auto& [precision, calibration] :
       {std::pair(Precision::kInt8, "smoothquant"), {Precision::kW4a16, "awq"}}) {
    const Case c = case_in(precision, calibration);
    CudaEngine engine({.search_choices = false});
    reference::ReferenceEngine reference;
    load_case(engine, c, config, weight_form(c));
    ASSERT_TRUE(engine.scales());
    // Scales that were not worth it on so small a model would show nothing.
    auto scales = std::make_shared<ChannelScales>(*engine.scales());
    for (const ScaledInput& input : scaled_inputs(weight_layout(config, weight_form(c)))) {
      std::vector<int>& e = scales->exponents[input.name()];
      e.resize(static_cast<size_t>(weight_layout(config, weight_form(c)).at(input.name()).whole.cols));
      for (size_t k = 0; k < e.size(); ++k) e[k] = static_cast<int>(k % 3) - 1;
    }
    engine.use_scales(scales);
    reference.use_scales(scales);
    engine.load(c, config, weight_form(c));
    reference.load(c, config, weight_form(c));
    const CalibrationBatch batch = calibration_batch(config);
    const Output got = engine.forced_logits(batch.source, batch.tokens, batch.steps);
    const Output want = reference.forced_logits(batch.source, batch.tokens, batch.steps);
    // Rows are quantised after they were rounded to bf16, so some codes are their neighbours: as much as that changes the
    // reference, times four (harness/run/MEASURING.md).
    reference.take(Inputs::kRounded);
    const Output rounded = reference.forced_logits(batch.source, batch.tokens, batch.steps);
    reference.take(Inputs::kOwn);
    const double rounding = relative_l2(rounded.values, want.values);
    EXPECT_LT(relative_l2(got.values, want.values), 4 * rounding) << calibration << " " << rounding;
    // Factors of 1/2 to 2 on one side alone change the logits by about as much as they are.
    EXPECT_LT(4 * rounding, 0.5) << calibration;
  }
}

}  // namespace
}  // namespace tandem::kernels
