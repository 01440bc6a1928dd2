// Plans as the engine does not build them yet, on a card.
#include "kernels/runtime/executor.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <vector>

#include "harness/base/error.h"
#include "harness/engine/compare.h"
#include "harness/model/batch.h"
#include "kernels/common/device_buffer.h"
#include "kernels/common/device_test.h"
#include "kernels/plan/builder.h"
#include "kernels/runtime/decoding_run.h"

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
