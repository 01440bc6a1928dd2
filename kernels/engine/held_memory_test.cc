// What a case takes of the card, asked of the driver, against what its plan said before.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "harness/base/cuda_check.h"
#include "kernels/engine/engine_test_util.h"

namespace tandem::kernels {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

struct HeldCase {
  const char* model;
  Precision precision;
  Suite suite;
  int batch, src, tgt;
};

int64_t free_bytes() {
  size_t free = 0, total = 0;
  TANDEM_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(free);
}

class HeldMemory : public testing::TestWithParam<HeldCase> {
 protected:
  static Case case_to_hold() {
    Case c;
    c.suite = GetParam().suite;
    c.model = GetParam().model;
    c.batch = GetParam().batch;
    c.src = GetParam().src;
    c.tgt = GetParam().tgt;
    c.precision = GetParam().precision;
    return c;
  }
  static std::unique_ptr<Workload> held(CudaEngine& engine, const ModelConfig& config) {
    const Case c = case_to_hold();
    engine.load(c, config, {.precision = c.precision});
    auto workload = engine.prepare(
        c, make_batch(config, std::vector<int32_t>(static_cast<size_t>(c.batch), c.src), kInputSeed));
    workload->repeat();
    return workload;
  }
};

// Breaks when something is held that the plan does not know of, or planned and not needed: cases would be refused that fit,
// or started that do not.
TEST_P(HeldMemory, IsWhatThePlanSaid) {
  TANDEM_NEED_DEVICE();
  const ModelConfig config = preset(GetParam().model);
  {
    // The context, and the kernels that this case loads, belong to no plan: the same case with little of the model in it
    // brings them in.
    ModelConfig small = config;
    small.encoder.layers = small.decoder.layers = 1;
    small.vocab = 4096;
    CudaEngine engine({.search_choices = false});
    held(engine, small);
  }
  CudaEngine engine({.search_choices = false});
  const int64_t before = free_bytes();
  const auto workload = held(engine, config);
  const int64_t taken = before - free_bytes();
  ASSERT_TRUE(workload->planned_bytes().has_value());
  const int64_t planned = *workload->planned_bytes();
  ASSERT_GT(planned, 256 * kMiB) << "too small a case to say anything";
  fmt::print("{} {} {}: planned {} MiB, taken {} MiB ({:+.2f} %)\n", GetParam().model,
             precision_name(GetParam().precision), suite_name(GetParam().suite), planned / kMiB, taken / kMiB,
             100.0 * static_cast<double>(taken - planned) / static_cast<double>(planned));
  EXPECT_LE(std::abs(static_cast<double>(taken - planned)), 0.05 * static_cast<double>(planned));
  EXPECT_LE(std::abs(static_cast<double>(workload->peak_bytes() - planned)),
            0.05 * static_cast<double>(planned));
}

// Most of the first is weights, of the second keys and values, of the third activations.
INSTANTIATE_TEST_SUITE_P(
    Cases, HeldMemory,
    testing::Values(HeldCase{"t5-base", Precision::kFp32, Suite::kGenerate, 4, 64, 64},
                    HeldCase{"transformer-big", Precision::kBf16, Suite::kGenerate, 64, 256, 256},
                    HeldCase{"transformer-big", Precision::kBf16, Suite::kEncoder, 128, 512, 1}));

// A driver call in a repetition, or for a case whose like has been measured, would be timed with it.
TEST(HeldMemory, NoDriverAllocationInSteadyState) {
  TANDEM_NEED_DEVICE();
  const CoverCase cover = tiny_case(Precision::kBf16, {30, 12});
  const TransformerBatch batch = make_batch(cover.config, cover.lengths, kInputSeed);
  const Case c = case_of(cover, Suite::kGenerate, 40);
  CudaEngine engine({});
  engine.load(c, cover.config, {.precision = cover.precision});
  const auto calls = [&] { return engine.device().gpu().stats().upstream_calls; };
  const auto free_bytes = [] {
    size_t free = 0, total = 0;
    TANDEM_CUDA_CHECK(cudaMemGetInfo(&free, &total));
    return free;
  };
  {
    const auto workload = engine.prepare(c, batch);
    workload->repeat();
    const int64_t before = calls();
    const size_t free_before = free_bytes();
    for (int i = 0; i < 20; ++i) workload->repeat();
    EXPECT_EQ(calls(), before);
    EXPECT_EQ(free_bytes(), free_before);
    ASSERT_TRUE(workload->planned_bytes().has_value());
    EXPECT_NEAR(static_cast<double>(workload->peak_bytes()), static_cast<double>(*workload->planned_bytes()),
                0.02 * static_cast<double>(*workload->planned_bytes()));
    EXPECT_GT(workload->graph_build_us().value_or(0), 0);
  }
  const int64_t before = calls();
  engine.prepare(c, batch)->repeat();
  EXPECT_EQ(calls(), before) << "preparing the same case again";
}

}  // namespace
}  // namespace tandem::kernels
