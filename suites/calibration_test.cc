// What SmoothQuant and AWQ win and lose, on the reference: relative error of logits against the dense fp32 model, on other
// tokens than the scales were chosen on.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/testing/test_seed.h"
#include "harness/engine/calibration.h"
#include "harness/engine/compare.h"
#include "harness/run/validate.h"
#include "harness/weights/calibration/calibrated.h"
#include "harness/weights/materialise.h"
#include "harness/weights/values/seeded.h"
#include "kernels/plan/builder.h"
#include "kernels/plan/testing/model_cover.h"
#include "reference/engine/reference_engine.h"
#include "reference/model/generate.h"

namespace tandem {
namespace {

constexpr float kPlanted = 20;

/// Seeded weights in which every 29th channel of what norms give to products is 20 times as large. `compensated`: the
/// columns that read it are as much smaller, so that the model stays what it was and has, as trained ones do, outliers in
/// its activations alone.
class PlantedSource : public WeightSource {
 public:
  PlantedSource(const WeightsSpec& seed, const WeightLayout& layout, bool compensated) : seeded_(seed) {
    for (const ScaledInput& input : scaled_inputs(layout)) {
      // A tied head's columns are the embedding's.
      if (!input.makers.front().ends_with(".gamma") || input.name() == "head.weight") continue;
      factors_.push_back({input.makers, kPlanted});
      if (compensated) factors_.push_back({input.readers, 1 / kPlanted});
    }
  }
  void read(const WholeTensor& t, const Rectangle& at, std::span<float> out) const override {
    seeded_.read(t, at, out);
    for (const auto& [names, factor] : factors_) {
      if (std::ranges::count(names, t.name) == 0) continue;
      for (int64_t i = 0; i < at.size(); ++i)
        if ((at.first_col + i % at.cols) % 29 == 11) out[static_cast<size_t>(i)] *= factor;
    }
  }
  std::string key() const override { return "planted " + seeded_.key(); }

 private:
  SeededSource seeded_;
  std::vector<std::pair<std::vector<std::string>, float>> factors_;
};

/// The reference with weights that a test made.
class TestEngine : public reference::ReferenceEngine {
 public:
  explicit TestEngine(std::function<std::unique_ptr<WeightSource>()> source) : source_(std::move(source)) {}

 protected:
  std::unique_ptr<WeightSource> source(const Case&) const override { return source_(); }

 private:
  std::function<std::unique_ptr<WeightSource>()> source_;
};

struct Loss {
  double none = 0, calibrated = 0;  ///< relative errors of logits
  size_t scaled = 0;                ///< inputs
  double ratio() const { return calibrated / none; }
};

Loss loss(const ModelConfig& config, const WeightForm& form,
          const std::function<std::unique_ptr<WeightSource>()>& source) {
  TestEngine engine(source);
  Case c;
  c.engine = "reference";
  const int longest = calibration_batch(config).source.longest;
  const TransformerBatch batch = make_batch(config, std::vector<int32_t>(8, longest), kInputSeed);
  const std::vector<int32_t> tokens = decoder_prefix(config, 8, 16, kInputSeed);
  const auto logits = [&](const WeightForm& f) {
    c.precision = f.precision;
    engine.load(c, config, f);
    return engine.forced_logits(batch, tokens, 16).values;
  };
  WeightForm bare = form;
  bare.calibration = Calibration::kNone;
  const std::vector<float> truth = logits({});
  const auto error = [&](const WeightForm& f) { return compare(logits(f), truth, config.vocab).relative_l2; };
  Loss found{.none = error(bare)};
  engine.use_scales(calibrate(engine, c, config, form, *source()));
  found.scaled = engine.scales()->exponents.size();
  found.calibrated = error(form);
  return found;
}

const std::vector<WeightForm> kForms = {
    {.precision = Precision::kInt8, .calibration = Calibration::kSmoothQuant},
    {.precision = Precision::kFp8, .calibration = Calibration::kSmoothQuant},
    {.precision = Precision::kW8a16, .calibration = Calibration::kAwq},
    {.precision = Precision::kW4a16, .calibration = Calibration::kAwq}};
constexpr double kSlack = 1.02;  ///< by which a calibration may be worse than none

// A calibration that loses where it cannot win: every kind of model, with rows of several sizes and without.
TEST(Calibration, IsNowhereMuchWorseThanNone) {
  for (size_t f = 0; f < kForms.size(); ++f) {
    uint64_t model = 0;
    for (const auto& c : kernels::covering_cases(test_seed(), {kForms[f].precision})) {
      if (++model % 2 != f % 2) continue;
      SCOPED_TRACE(fmt::format("{} {}", form_text(kForms[f]), c.text));
      const WeightsSpec seed{.seed = test_seed() + model, .outliers = model % 4 < 2};
      const Loss l = loss(c.config, kForms[f], [&] { return std::make_unique<SeededSource>(seed); });
      EXPECT_LE(l.ratio(), kSlack) << l.scaled << " inputs scaled";
    }
  }
}

/// Ratios of some pre-norm models with planted channels.
std::vector<double> planted_ratios(const WeightForm& form, bool compensated) {
  std::vector<double> ratios;
  for (const auto& c : kernels::covering_cases(test_seed(), {form.precision})) {
    if (c.config.placement != NormPlacement::kPre) continue;
    const WeightsSpec seed{.seed = test_seed() + ratios.size()};
    const Loss l = loss(c.config, form, [&] {
      return std::make_unique<PlantedSource>(seed, weight_layout(c.config, form), compensated);
    });
    ratios.push_back(l.ratio());
    if (ratios.size() == 8) break;
  }
  return ratios;
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// Breaks when scales do not reach the weights, or reach one side of a product alone: outliers of activations are what both
// methods are for.
TEST(Calibration, HelpsWhereChannelsStandOut) {
  for (const WeightForm& form : kForms) {
    SCOPED_TRACE(form_text(form));
    const std::vector<double> ratios = planted_ratios(form, true);
    const double worst = *std::ranges::max_element(ratios);
    // Codes of fp8 are as fine for small values as for large ones: it has nothing to win.
    EXPECT_LE(worst, form.precision == Precision::kInt8 ? 1 / 1.5 : kSlack);
    EXPECT_LE(mean(ratios), form.precision == Precision::kFp8 ? kSlack : 0.85);
  }
  // Gains alone make scores so large that attention sees one key, and any rounding may choose another: models differ much.
  EXPECT_LE(mean(planted_ratios(kForms.front(), false)), 0.85);
}

// Breaks when a factor reaches a maker and not its readers, or passes something that it does not commute with: the dense
// model with scaled weights is the same one, bit for bit.
TEST(Calibration, LeavesTheDenseModelAsItIs) {
  constexpr WeightForm kForm{.precision = Precision::kInt8, .calibration = Calibration::kSmoothQuant};
  for (const auto& c : kernels::covering_cases(test_seed(), {Precision::kInt8})) {
    const WeightsSpec seed{.seed = test_seed()};
    HostWeights scaled{.layout = weight_layout(c.config, kForm.in_fp32())};
    ChannelScales scales{.of = scales_key(SeededSource(seed), scaled.layout)};
    for (const ScaledInput& input : scaled_inputs(scaled.layout)) {
      for (int64_t k = 0; k < scaled.layout.at(input.name()).cols; ++k)
        scales.exponents[input.name()].push_back(static_cast<int>(k * 5 % 7) - 3);
    }
    const CalibratedSource source(std::make_unique<SeededSource>(seed), scaled.layout, scales);
    scaled.arena.resize(static_cast<size_t>(scaled.layout.bytes) / sizeof(float));
    for (const TensorSpec& t : scaled.layout.tensors)
      read_values(source, t, {0, t.rows, 0, t.cols}, scaled.tensor(t.name));
    scaled.layout.form.precision = Precision::kFp32;  // products take their rows as they are

    const TransformerBatch batch = make_batch(c.config, {7, 3}, test_seed());
    const std::vector<int32_t> tokens = decoder_prefix(c.config, 2, 4, test_seed());
    const auto logits = [&](const HostWeights& host) {
      return reference::forced_logits(c.config, host.weights(), batch, tokens, 4).values;
    };
    EXPECT_EQ(logits(scaled), logits(host_weights(c.config, seed))) << c.text;
  }
}

// Breaks when a plan of the library's products, on which an engine observes its inputs, hides one in another kernel.
TEST(Calibration, PlansOfTheLibraryShowEveryInput) {
  for (const auto& c : kernels::covering_cases(test_seed(), {Precision::kInt8})) {
    const WeightLayout calibrated = weight_layout(c.config, {.precision = Precision::kInt8}),
                       dense = weight_layout(c.config);
    const auto* base = reinterpret_cast<const void*>(kPlanAlignment);  // nothing is read
    const StepPlan plan = kernels::build_plan({.config = c.config,
                                               .weights = bind_weights(dense, base),
                                               .precision = Precision::kFp32,
                                               .kernel = kernels::KernelChoice::kLibrary,
                                               .batch = 2,
                                               .source_tokens = 12,
                                               .max_source = 9,
                                               .capacity = 4});
    InputObserver observer(calibrated, dense, base);
    for (const PlanOp& op : plan.ops) {
      const auto* product = std::get_if<DenseOp>(&op.body);
      InputStats* stats = product == nullptr ? nullptr : observer.of(product->weight.weight.data);
      if (stats == nullptr) continue;
      EXPECT_FALSE(product->norm) << phase_path(op.phase);
      EXPECT_EQ(stats->rows, 0) << phase_path(op.phase);
      stats->add(std::vector<float>(static_cast<size_t>(product->x.cols), 1), 1);
    }
    const CalibrationStats seen = observer.take();
    for (const ScaledInput& input : scaled_inputs(calibrated)) {
      ASSERT_TRUE(seen.contains(input.name())) << input.name() << " " << c.text;
      EXPECT_EQ(seen.at(input.name()).channels(), calibrated.at(input.name()).cols) << input.name();
    }
    EXPECT_EQ(seen.size(), scaled_inputs(calibrated).size()) << c.text;
  }
}

// Breaks when the two sides of a validation hold other weights, or every load of a group observes the model again.
TEST(Calibration, IsChosenOnceAndShared) {
  ModelConfig config = preset("tiny");
  config.placement = NormPlacement::kPre;
  config.final_norm = true;
  const WeightForm& form = kForms.front();
  const auto planted = [&] {
    return std::make_unique<PlantedSource>(WeightsSpec{.seed = 3}, weight_layout(config, form), true);
  };
  Case c;
  c.model = "tiny";
  c.precision = form.precision;
  c.calibration = "smoothquant";
  TestEngine engine(planted), other(planted);
  EXPECT_THROW(engine.load(c, config, form), Error) << "no scales yet";
  reference::ReferenceEngine seeded;
  load_case(seeded, c, config, form);
  const auto chosen = seeded.scales();
  load_case(seeded, c, config, form);
  EXPECT_EQ(seeded.scales(), chosen);
  c.weights = "seed:9";
  load_case(seeded, c, config, form);
  EXPECT_NE(seeded.scales()->of, chosen->of);

  engine.use_scales(calibrate(engine, c, config, form, *planted()));
  other.use_scales(engine.scales());
  EXPECT_FALSE(engine.scales()->exponents.empty());
  const CalibrationBatch batch = calibration_batch(config);
  const auto logits = [&](Engine& e) {
    e.load(c, config, form);
    return e.forced_logits(batch.source, batch.tokens, batch.steps).values;
  };
  EXPECT_EQ(logits(engine), logits(other));
}

/// The reference as the engine that is validated.
class JudgedEngine : public reference::ReferenceEngine {
 public:
  std::string_view name() const override { return "judged"; }
  EngineTraits traits() const override { return {.on_host = true, .is_truth = false}; }
};

/// A reference that must not observe for itself.
class BlindReference : public reference::ReferenceEngine {
 public:
  CalibrationStats observed_inputs(const WeightLayout&) override { throw Error("observed for itself"); }
};

// Breaks when a validation leaves its two sides to choose scales of their own, or a case whose sequences are compared in fp32
// asks for a calibration there.
TEST(Calibration, ValidationHandsTheScalesOver) {
  for (const char* decode : {"greedy", "beam:2"}) {
    Case c;
    c.suite = Suite::kGenerate;
    c.model = "tiny";
    c.weights = "seed:1,outliers";
    c.batch = 2;
    c.src = 9;
    c.tgt = 5;
    c.decode = decode;
    for (const WeightForm& form : kForms) {
      c.precision = form.precision;
      c.calibration = form.calibration == Calibration::kAwq ? "awq" : "smoothquant";
      JudgedEngine engine;
      const Validation v =
          validate(c, engine, {.reference = [] { return std::make_unique<BlindReference>(); }});
      EXPECT_EQ(v.status, Status::kOk) << form_text(form) << ": " << v.reason.value_or("");
      EXPECT_TRUE(v.accuracy);
    }
  }
}

}  // namespace
}  // namespace tandem
