// The CUDA engine against Hugging Face transformers: the same committed fixtures that hold the reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "harness/base/cuda_check.h"
#include "kernels/engine/engine_test_util.h"
#include "kernels/runtime/workloads.h"
#include "reference/testing/family_fixture.h"

namespace tandem::kernels {
namespace {

constexpr double kTolerance = 1e-5;

using Families = testing::TestWithParam<std::string>;

WorkloadContext upload(const reference::FamilyFixture& f) {
  auto device = std::make_shared<Device>(CudaEngineOptions{.search_choices = false});
  device->activate();
  MemoryResource& memory = device->memory("level2");
  auto model = std::make_shared<DeviceModel>();
  model->config = f.config;
  model->precision = Precision::kFp32;
  model->layout = f.host.layout;
  model->arena = MemoryBlock(memory, f.host.layout.bytes);
  TANDEM_CUDA_CHECK(cudaMemcpy(model->arena.data(), f.host.arena.data(),
                               static_cast<size_t>(f.host.layout.bytes), cudaMemcpyHostToDevice));
  model->weights = bind_weights(model->layout, model->arena.data());
  return {.device = device, .memory = &memory, .model = model};
}

// An engine that agrees with our own reference and not with the published model would be wrong together with it.
TEST_P(Families, EncoderAndLogitsAreTransformers) {
  TANDEM_NEED_DEVICE();
  const reference::FamilyFixture f = reference::load_family(GetParam());
  const WorkloadContext context = upload(f);
  const int steps = f.target.longest;
  const int rows = f.source.size();

  const auto encoder = encoder_workload(context, f.source, {.capacity = 0});
  encoder->repeat();
  const Comparison encoded = compare(encoder->output().values, f.encoder_output, f.config.d_model);
  EXPECT_TRUE(encoded.within(kTolerance)) << encoded.relative_l2 << " " << encoded.where;

  // A target that is over is fed its last id again and not looked at.
  std::vector<int32_t> tokens;
  for (int b = 0; b < rows; ++b) {
    for (int t = 0; t < steps; ++t) {
      tokens.push_back(f.target.ids[f.target.offsets[b] + std::min(t, f.target.lengths[b] - 1)]);
    }
  }
  const Output logits = forced_logits(context, f.source, tokens, {.capacity = steps});
  std::vector<float> got;
  for (int b = 0; b < rows; ++b) {
    for (int t = 0; t < f.target.lengths[b]; ++t) {
      const float* row = logits.values.data() + (static_cast<size_t>(t) * rows + b) * f.config.vocab;
      got.insert(got.end(), row, row + f.config.vocab);
    }
  }
  const Comparison decoded = compare(got, f.logits, f.config.vocab);
  EXPECT_TRUE(decoded.within(kTolerance)) << decoded.relative_l2 << " " << decoded.where;
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Families, testing::ValuesIn(reference::kFamilies),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tandem::kernels
