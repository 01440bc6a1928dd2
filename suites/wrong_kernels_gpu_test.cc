// Kernels of the CUDA engine that compute something wrong on a card, through the whole path of a worker: none
// of them gets a time. The same faults interpreted on the CPU: wrong_plans_test.cc.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "harness/base/testing/test_seed.h"
#include "harness/run/worker.h"
#include "kernels/engine/cuda_engine.h"
#include "reference/engine/reference_engine.h"
#include "suites/wrong_plans.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

class WrongKernelsTest : public testing::TestWithParam<Precision> {
 protected:
  void SetUp() override {
    std::string reason;
    if (!kernels::cuda_usable(0, &reason)) GTEST_SKIP() << reason;
    ::setenv("TANDEM_SAMPLE_SECONDS", "0:0.01", 1);
    dir_ = fs::temp_directory_path() / fmt::format("tandem-wrong-kernels.{}", ::getpid());
    fs::create_directories(dir_);
    for (const ModelConfig& model : wrong_plan_models()) {
      models_.push_back((dir_ / (model.name + ".json")).string());
      std::ofstream(models_.back()) << nlohmann::json(model);
    }
  }
  void TearDown() override {
    std::error_code ec;
    if (!dir_.empty()) fs::remove_all(dir_, ec);
  }

  /// The record of a case whose plans were edited.
  static Record measured(Case c, uint64_t weights, const std::function<void(StepPlan&)>& edit) {
    const EngineRegistry registry = {
        .make = [&](const std::string& name, const EngineOptions& options) -> std::unique_ptr<Engine> {
          if (name == "reference") return std::make_unique<reference::ReferenceEngine>();
          return std::make_unique<kernels::CudaEngine>(kernels::CudaEngineOptions{
              .device = options.device, .search_choices = false, .edit_plan = edit});
        },
        .device_usable = kernels::cuda_usable,
        .l2_bytes = [](int) { return std::optional<double>(); }};
    const WorkerOptions options;  // named: g++ 12 warns of an unnamed one
    Worker worker(registry, options);
    c.weights = fmt::format("seed:{}", weights);
    c = canonical(c);
    return worker.measure_case(c, worker.validate_case(c));
  }

  fs::path dir_;
  std::vector<std::string> models_;
};

// Breaks when the refusals below would refuse anything.
TEST_P(WrongKernelsTest, RightKernelsAreTimed) {
  const uint64_t weights = GetParam() == Precision::kBf16 ? kRightInBf16 : test_seed() % 1000;
  for (const std::string& model : models_) {
    for (const Suite suite : kModelSuites) {
      const Record r = measured(wrong_plan_case(model, suite, GetParam()), weights, {});
      EXPECT_EQ(r.status, Status::kOk) << model << " " << suite_name(suite) << ": " << r.reason.value_or("");
      EXPECT_TRUE(r.summary);
    }
  }
}

// Breaks when a kernel that masks, scales or reads what it should not, or drops a head, gets a time on a card.
TEST_P(WrongKernelsTest, NoWrongKernelGetsATime) {
  const uint64_t weights = test_seed() % 1000;
  for (const std::string& model : models_) {
    for (const WrongPlan& wrong : wrong_plans()) {
      for (const Suite suite : kModelSuites) {
        if (suite == Suite::kEncoder && !wrong.in_encoder) continue;
        SCOPED_TRACE(fmt::format("{}: {} in {}", model, wrong.name, suite_name(suite)));
        const Record r = measured(wrong_plan_case(model, suite, GetParam()), weights, wrong.edit);
        EXPECT_EQ(r.status, Status::kInvalid) << r.reason.value_or("");
        EXPECT_FALSE(r.summary) << "it got a time";
        EXPECT_FALSE(r.samples);
        EXPECT_FALSE(r.reason.value_or("").empty());
        ASSERT_TRUE(r.check);
        fmt::print("{} {} {}: {}, error {}\n", wrong.name, suite_name(suite), precision_name(GetParam()),
                   status_name(r.status),
                   r.check->error ? fmt::format("{:.2g}", *r.check->error) : "not finite");
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, WrongKernelsTest, testing::Values(Precision::kFp32, Precision::kBf16));

}  // namespace
}  // namespace tandem
