// Plans as the engine does not build them yet, on a card.
#include "kernels/runtime/executor.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"
#include "harness/base/half.h"
#include "harness/engine/compare.h"
#include "harness/model/batch.h"
#include "kernels/common/device_buffer.h"
#include "kernels/common/device_test.h"
#include "kernels/plan/builder.h"
#include "kernels/runtime/decoding_run.h"
#include "kernels/skinny/skinny.h"

namespace tandem::kernels {
namespace {

constexpr int kSteps = 3;

struct Outputs {
  std::vector<float> encoder;
  std::vector<float> logits;  // of all steps, fed the same ids
};

Outputs run_plan(Device& device, const StepPlan& plan, const TransformerBatch& batch) {
  PlanExecutor run(device, device.memory("gpu"), plan);
  upload_source(run, batch);
  run.run(PlanSection::kEncoder);
  Outputs out{.encoder = run.floats(plan_names::kEncoderOutput), .logits = {}};
  run.run(PlanSection::kCrossKv);
  const int32_t start = 0;
  run.upload(plan_names::kPosition, &start, sizeof(start));
  const int64_t count = int64_t{batch.size()} * plan.config.vocab;
  const DeviceBuffer logits(count * static_cast<int64_t>(sizeof(float)));
  for (int t = 0; t < kSteps; ++t) {
    const std::vector<int32_t> ids(static_cast<size_t>(batch.size()), plan.config.decoder_start_id + 5 * t);
    run.upload(plan_names::kNextIds, ids.data(), static_cast<int64_t>(ids.size() * sizeof(int32_t)));
    run.run(PlanSection::kStep, logits.data<float>());
    const auto step = logits.to_host<float>();
    out.logits.insert(out.logits.end(), step.begin(), step.end());
  }
  return out;
}

// A norm that leaves its sum elsewhere than the next one reads its residual, or in another type, would lose the residual
// stream: an error as large as the values.
TEST(PlanExecutor, PartialSumsGiveTheSameResults) {
  TANDEM_NEEDS_DEVICE();
  Device device({.search_choices = false});
  for (const Precision precision : {Precision::kFp32, Precision::kFp16, Precision::kBf16}) {
    for (const NormPlacement placement : {NormPlacement::kPre, NormPlacement::kPost}) {
      ModelConfig config = preset("tiny");
      config.placement = placement;
      config.final_norm = placement == NormPlacement::kPre;
      const DeviceModel model = load_device_model(
          device, device.memory("gpu"),
          {.config = config, .weights = {}, .precision = precision, .form = {.precision = precision}});
      const TransformerBatch batch = make_batch(config, {5, 1, 9}, test_seed());
      for (const char* kernel : {"own", "library"}) {
        SCOPED_TRACE(fmt::format("{} {} {}", precision_name(precision),
                                 placement == NormPlacement::kPre ? "pre" : "post", kernel));
        PlanRequest request{.config = config,
                            .weights = model.weights,
                            .precision = precision,
                            .kernel = parse_kernel(kernel),
                            .batch = batch.size(),
                            .source_tokens = batch.tokens(),
                            .max_source = batch.longest,
                            .capacity = kSteps};
        const Outputs whole = run_plan(device, build_plan(request), batch);
        request.slice = TensorSlice{};
        const Outputs partial = run_plan(device, build_plan(request), batch);
        const double bound = precision == Precision::kFp32   ? 1e-5
                             : precision == Precision::kFp16 ? 2e-2
                                                             : 0.1;
        EXPECT_LE(relative_l2(partial.encoder, whole.encoder), bound);
        EXPECT_LE(relative_l2(partial.logits, whole.logits), bound);
      }
    }
  }
}

/// What a step's products left for norms by statistics, and what was made of it, against the rows as they lie on the card.
class StatisticsCheck {
 public:
  StatisticsCheck(const PlanExecutor& run, const ModelConfig& config) : run_(run), config_(config) {}

  /// Before `op` is launched: a norm by statistics of what `made` wrote.
  void see(const DenseOp& op, const DenseOp& made) {
    const std::vector<float> s = run_.floats(made.y), scaled = run_.floats(op.x),
                             stats = run_.floats(op.x_stats);
    const std::vector<float> gamma = weights(made.stats_norm->gamma);
    const int64_t rows = made.y.rows, cols = made.y.cols;
    std::vector<float> want_scaled(s.size()), want_stats(stats.size());
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) want_scaled[r * cols + c] = s[r * cols + c] * gamma[c];
      for (int64_t block = 0; block < cols / kPlanStatsColumns; ++block) {
        const float* at = s.data() + r * cols + block * kPlanStatsColumns;
        double mean = 0, squares = 0;
        if (config_.norm == Norm::kLayer)
          mean = std::accumulate(at, at + kPlanStatsColumns, 0.0) / kPlanStatsColumns;
        for (int64_t i = 0; i < kPlanStatsColumns; ++i) squares += (at[i] - mean) * (at[i] - mean);
        want_stats[block * 2 * rows + 2 * r] = static_cast<float>(mean);
        want_stats[block * 2 * rows + 2 * r + 1] = static_cast<float>(squares);
      }
    }
    EXPECT_LE(relative_l2(stats, want_stats), 1e-5);
    EXPECT_LE(relative_l2(scaled, want_scaled), 3e-3) << "one rounding to bf16";
    for (size_t i = 0; i < scaled.size(); ++i)
      ASSERT_LE(std::abs(scaled[i] - want_scaled[i]), 1e-30 + std::abs(want_scaled[i]) / 250)
          << "element " << i;
    if (!op.norm_sums.empty()) check_sums(op);
    ++seen;
  }
  int seen = 0;

 private:
  /// fp32 of bf16 weights on the card.
  static std::vector<float> weights(const TensorView& t) {
    std::vector<uint16_t> bits(static_cast<size_t>(t.rows * t.cols));
    TANDEM_CUDA_CHECK(
        cudaMemcpy(bits.data(), t.data, bits.size() * sizeof(uint16_t), cudaMemcpyDeviceToHost));
    std::vector<float> values(bits.size());
    std::ranges::transform(bits, values.begin(), bf16_to_float);
    return values;
  }
  void check_sums(const DenseOp& op) const {
    const std::vector<float> w = weights(op.weight.weight), sums = run_.floats(op.norm_sums);
    std::vector<float> want;
    for (const TensorView& of : {op.norm->gamma, op.norm->beta}) {
      const std::vector<float> x = weights(of);
      for (size_t row = 0; row < w.size(); row += x.size()) {
        double sum = 0;
        for (size_t i = 0; i < x.size(); ++i) sum += double{w[row + i]} * x[i];
        want.push_back(static_cast<float>(sum));
      }
    }
    EXPECT_LE(relative_l2(sums, want), 1e-5);
  }

  const PlanExecutor& run_;
  const ModelConfig& config_;
};

// Statistics of the rounded row, of other columns, a scaled row of another gamma: each would be a small error of the logits.
TEST(PlanExecutor, StatisticsAreOfTheRowsThatProductsWrite) {
  TANDEM_NEEDS_DEVICE();
  if (!skinny_card().sm90a) GTEST_SKIP() << "no kernel leaves statistics here";
  Device device({.search_choices = false});
  for (const Norm norm : {Norm::kRms, Norm::kLayer}) {
    for (const NormPlacement placement : {NormPlacement::kPre, NormPlacement::kPost}) {
      for (const int rows : {17, 32, 33, 64}) {
        SCOPED_TRACE(fmt::format("{} {} {} rows", norm_name(norm), placement_name(placement), rows));
        ModelConfig config = preset("tiny");
        config.d_model = 192;
        config.norm = norm;
        config.placement = placement;
        config.final_norm = true;
        const DeviceModel model = load_device_model(device, device.memory("gpu"),
                                                    {.config = config,
                                                     .weights = {},
                                                     .precision = Precision::kBf16,
                                                     .form = {.precision = Precision::kBf16}});
        const TransformerBatch batch = make_batch(config, std::vector<int32_t>(rows, 3), test_seed());
        const StepPlan plan = build_plan({.config = config,
                                          .weights = model.weights,
                                          .precision = Precision::kBf16,
                                          .batch = batch.size(),
                                          .source_tokens = batch.tokens(),
                                          .max_source = batch.longest,
                                          .capacity = kSteps,
                                          .auto_own_rows = kAutoWideRows,
                                          .norms_by_statistics = true,
                                          .statistics_width = 0});
        PlanExecutor run(device, device.memory("gpu"), plan);
        StatisticsCheck check(run, config);
        const DenseOp* made = nullptr;  // the last product that left statistics
        run.observe([&](const PlanOp& op) {
          const auto* dense = std::get_if<DenseOp>(&op.body);
          if (dense != nullptr && !dense->x_stats.empty()) check.see(*dense, *made);
          if (dense != nullptr && !dense->stats.empty()) made = dense;
        });
        upload_source(run, batch);
        run.run(PlanSection::kEncoder);
        run.run(PlanSection::kCrossKv);
        const int32_t start = 0;
        run.upload(plan_names::kPosition, &start, sizeof(start));
        const std::vector<int32_t> ids(static_cast<size_t>(rows), config.decoder_start_id);
        run.upload(plan_names::kNextIds, ids.data(), static_cast<int64_t>(ids.size() * sizeof(int32_t)));
        run.run(PlanSection::kStep);
        EXPECT_EQ(check.seen, 3 * config.decoder.layers - 1);
      }
    }
  }
}

// Weights of another type than the kernels take would be read as what they are not.
TEST(PlanExecutor, RefusesWeightsOfAnotherType) {
  TANDEM_NEEDS_DEVICE();
  Device device({.search_choices = false});
  const ModelConfig config = preset("tiny");
  const DeviceModel model = load_device_model(device, device.memory("gpu"),
                                              {.config = config,
                                               .weights = {},
                                               .precision = Precision::kFp16,
                                               .form = {.precision = Precision::kFp16}});
  const StepPlan plan = build_plan({.config = config,
                                    .weights = model.weights,
                                    .precision = Precision::kBf16,
                                    .source_tokens = 4,
                                    .max_source = 4});
  EXPECT_THROW(PlanExecutor(device, device.memory("gpu"), plan), UsageError);
}

}  // namespace
}  // namespace tandem::kernels
