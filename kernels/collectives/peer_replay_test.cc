#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/collectives/peer_reduce.h"
#include "kernels/collectives/peer_tensors_test_util.h"
#include "kernels/common/timed_graph.h"

namespace tandem::kernels {
namespace {

/// A step whose ranks hold different values that change from step to step: x = norm(y) of the rank's own gamma; y = fused norm
/// of the sum by one shot; the same by two; then a plain sum and a norm of it.
class Chain {
 public:
  static constexpr int64_t kRows = 5;
  static constexpr int kWidth = 1024;
  static constexpr DType kType = DType::kBF16;

  Chain(const LocalRanks& all, RandomValues& random)
      : all_(all), start_(random.normal(kRows * kWidth, kType)) {
    const auto common = random.normal(kWidth, kType, 1, 0.1f);
    beta_values_ = random.normal(kWidth, kType);
    for (int r = 0; r < all.size(); ++r) own_.push_back(random.normal(kWidth, kType, 1, 0.5f));
    common_ = common;
    const auto same = [&](const std::vector<float>& v) {
      return tensors(all, std::vector<std::vector<float>>(static_cast<size_t>(all.size()), v), kType);
    };
    gamma_ = tensors(all, own_, kType);
    after_ = same(common);
    beta_ = same(beta_values_);
    y_ = same(start_);
    x_ = poisoned(all, kRows * kWidth, kType);
  }

  void step(int r, cudaStream_t stream, bool dependent) const {
    for (const PeerAlgorithm algorithm : kAlgorithms) {
      launch_norm(own_norm(r, dependent), stream);
      launch_all_reduce_norm(all_.view(r), algorithm, common_norm(r, dependent), stream);
    }
    launch_norm(own_norm(r, dependent), stream);
    launch_all_reduce(all_.view(r),
                      {.algorithm = PeerAlgorithm::kTwoShot,
                       .dtype = kType,
                       .count = kRows * kWidth,
                       .x = x_[r]->data(),
                       .y = x_[r]->data(),
                       .dependent = dependent},
                      stream);
    launch_norm(common_norm(r, dependent), stream);
  }
  std::vector<uint8_t> result(int r) const { return bytes(all_, y_, r); }

  /// The same steps on one device, with sums made on the host.
  std::vector<uint8_t> expected(int steps) const {
    std::vector<std::unique_ptr<DeviceTensor>> gamma;
    for (const auto& g : own_) gamma.push_back(std::make_unique<DeviceTensor>(g, kType));
    const DeviceTensor after(common_, kType);
    const DeviceTensor beta(beta_values_, kType);
    const DeviceTensor y(start_, kType);
    const DeviceTensor x(kRows * kWidth, kType);
    for (int i = 0; i < 3 * steps; ++i) {
      std::vector<std::vector<float>> parts;
      for (const auto& g : gamma) {
        launch_norm(norm(y.data(), g->data(), beta.data(), nullptr, x.data(), false), nullptr);
        parts.push_back(x.values());
      }
      const std::vector<uint8_t> sum = encoded(host_sum(parts, kType), kType);
      TANDEM_CUDA_CHECK(cudaMemcpy(x.data(), sum.data(), sum.size(), cudaMemcpyHostToDevice));
      launch_norm(norm(x.data(), after.data(), beta.data(), y.data(), y.data(), false), nullptr);
    }
    return y.bytes();
  }

 private:
  static NormParams norm(const void* x, const void* gamma, const void* beta, const void* residual, void* y,
                         bool dependent) {
    return {.dtype = kType,
            .x_dtype = kType,
            .stream_dtype = kType,
            .rows = kRows,
            .d = kWidth,
            .x = x,
            .residual = residual,
            .gamma = gamma,
            .beta = beta,
            .y = y,
            .dependent = dependent};
  }
  NormParams own_norm(int r, bool dependent) const {
    return norm(y_[r]->data(), gamma_[r]->data(), beta_[r]->data(), nullptr, x_[r]->data(), dependent);
  }
  NormParams common_norm(int r, bool dependent) const {
    return norm(x_[r]->data(), after_[r]->data(), beta_[r]->data(), y_[r]->data(), y_[r]->data(), dependent);
  }

  const LocalRanks& all_;
  std::vector<float> start_, common_, beta_values_;
  std::vector<std::vector<float>> own_;
  Tensors gamma_, after_, beta_, y_, x_;
};

void check_replays(const LocalRanks& all, int replays, bool dependent, RandomValues& random) {
  const Chain chain(all, random);
  all.each([&](int r) { chain.step(r, all.stream(r), false); });  // loads the kernels
  all.synchronize();
  std::vector<std::unique_ptr<TimedGraph>> graphs(static_cast<size_t>(all.size()));
  all.each([&](int r) {
    graphs[r] = std::make_unique<TimedGraph>(all.stream(r),
                                             [&](cudaStream_t stream) { chain.step(r, stream, dependent); });
  });
  for (int i = 0; i < replays; ++i) all.each([&](int r) { graphs[r]->launch(); });
  all.synchronize();
  const std::vector<uint8_t> want = chain.expected(replays + 1);
  for (int r = 0; r < all.size(); ++r) {
    EXPECT_EQ(all.memory(r).lost(), std::nullopt);
    EXPECT_TRUE(chain.result(r) == want) << all.text() << ": rank " << r;
  }
  all.each([&](int r) { graphs[r].reset(); });
}

// Without it: a replay reads what an earlier one left, a rank that runs ahead overwrites what another still reads, or counting
// fails where the counter ends: 1000 replays of a step whose values change, against sums made on the host.
TEST(PeerReplay, ThousandReplaysAreThousandSteps) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  PeerOptions options = kSmall;
  options.first_generation = 0xffffffffu - 1500;
  for_all_ranks(options, [&](const LocalRanks& all) { check_replays(all, 1000, false, random); });
}

// Without it: a collective launched early reads or sends what the kernel before it has not written yet.
TEST(PeerReplay, DependentLaunchesWaitForTheirInputs) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for_all_ranks(kSmall, [&](const LocalRanks& all) {
    // Kernels that wait for their inputs hold places on the device, which emulated ranks share: two ranks of a few blocks leave
    // enough of them.
    if (all.emulated() && all.size() > 2) return;
    check_replays(all, 300, true, random);
  });
}

}  // namespace
}  // namespace tandem::kernels
