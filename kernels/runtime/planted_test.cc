#include "kernels/runtime/planted.h"

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "harness/base/cuda_check.h"
#include "harness/base/stats.h"
#include "kernels/runtime/graph.h"

namespace tandem::kernels {
namespace {

class Planted : public ::testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) GTEST_SKIP() << "no CUDA device";
    make_plant_possible();
    TANDEM_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    TANDEM_CUDA_CHECK(cudaMalloc(&bytes_, kBytes));
    TANDEM_CUDA_CHECK(cudaMemset(bytes_, 0, kBytes));
    double build_us = 0;
    TANDEM_CUDA_CHECK(cudaMemsetAsync(bytes_, 0, kWork, stream_));
    begin_.emplace();
    end_.emplace();
    graph_ = Graph(stream_, build_us, [&] { TANDEM_CUDA_CHECK(cudaMemsetAsync(bytes_, 0, kWork, stream_)); });
  }
  void TearDown() override {
    if (stream_ == nullptr) return;
    set_planted_work({});
    graph_ = {};
    TANDEM_CUDA_WARN(cudaFree(bytes_));
    TANDEM_CUDA_WARN(cudaStreamDestroy(stream_));
  }
  /// Median of the graph's time with so much work.
  double us(PlantKind kind, double units) {
    set_planted_work({.units = units, .kind = kind, .weights = bytes_, .bytes = kBytes});
    std::vector<double> times;
    for (int i = 0; i < 50; ++i) {
      begin_->record(stream_);
      graph_.launch(stream_);
      end_->record(stream_);
      end_->wait();
      times.push_back(end_->us_since(*begin_));
    }
    return median(times);
  }

  static constexpr size_t kBytes = size_t{512} << 20, kWork = size_t{64} << 20;
  cudaStream_t stream_ = nullptr;
  void* bytes_ = nullptr;
  Graph graph_;
  std::optional<Event> begin_, end_;  // made after the check for a device
};

// Breaks when the work is dropped by the compiler, does not grow with its units, or a graph without it carries it all the same:
// a calibration would then find no amount, or a wrong one.
TEST_F(Planted, TimeGrowsWithTheUnits) {
  for (const PlantKind kind : {PlantKind::kReads, PlantKind::kProducts}) {
    const double none = us(kind, 0), few = us(kind, 2000), many = us(kind, 4000);
    EXPECT_GT(few - none, 20) << "2000 units are tens of microseconds";
    EXPECT_NEAR((many - few) / (few - none), 1, 0.25);
    EXPECT_NEAR(us(kind, 0), none, 0.1 * none);
  }
}

// Breaks when reads run past the weights, or beyond the end of a few bytes.
TEST_F(Planted, ReadsStayInTheWeights) {
  set_planted_work({.units = 3000, .kind = PlantKind::kReads, .weights = bytes_, .bytes = 4096});
  graph_.launch(stream_);
  TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream_));
}

}  // namespace
}  // namespace tandem::kernels
