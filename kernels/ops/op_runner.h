// A small plan of equal operations, timed as one graph. What suite_kernels' operations are made of.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/host_device.h"
#include "harness/engine/engine.h"
#include "kernels/common/codes.h"
#include "kernels/plan/builder.h"
#include "kernels/runtime/device.h"
#include "kernels/runtime/executor.h"
#include "kernels/runtime/graph.h"

namespace tandem::kernels {

/// Copies of something of `bytes` so that all together are several times L2, at most 128.
int copies_beyond_l2(const Device& device, int64_t bytes);

/// Weights of all copies in one block of random values.
class OpWeights {
 public:
  /// What each copy has one of: values uniform in (-scale, scale), of 4 bits any; or the given bytes, the same in all copies.
  struct Region {
    DType dtype;
    int64_t elements;
    double scale;
    const std::vector<uint8_t>* bytes = nullptr;
  };
  OpWeights(Device& device, MemoryResource& memory, const std::vector<Region>& regions, int copies);
  /// A region of a copy as a matrix.
  TensorView view(int copy, int region, int64_t rows, int64_t cols) const;
  /// A part of a view of floating-point values as fp32 on the host.
  std::vector<float> download(const TensorView& view, int64_t first, int64_t count) const;
  /// The same as it is stored: `count` bytes from byte `first` on.
  std::vector<uint8_t> download_bytes(const TensorView& view, int64_t first, int64_t count) const;

 private:
  struct Place {
    DType dtype;
    int64_t offset;  ///< bytes, of the first copy
    int64_t stride;  ///< bytes from copy to copy
  };

  Device& device_;
  std::vector<Place> places_;
  MemoryBlock block_;
};

/// Runs section kStep of a plan whose operations are `copies` times the same.
class OpRunner : public Workload {
 public:
  /// Fills every kInput and kState buffer of floating-point values with random ones in (-1, 1), of codes with any.
  OpRunner(std::shared_ptr<Device> device, MemoryResource& memory, StepPlan plan,
           std::shared_ptr<OpWeights> weights, int copies);

  /// To be called once, after the integer inputs are in place.
  void build_graph();
  PlanExecutor& run() { return run_; }
  /// Random values in (-scale, scale).
  void fill(std::string_view buffer, float scale);
  /// A buffer of floating-point values or of codes as fp32 on the host, codes without their scales.
  std::vector<float> values(std::string_view buffer) const;
  OpWeights& weights() { return *weights_; }

  /// total_us is the time of one operation.
  Repetition repeat() override;
  Output output() override { return {}; }
  bool plant(double amount) override {
    if (!plant_possible()) return false;
    set_planted_work({.units = amount, .kind = PlantKind::kProducts});
    return true;
  }
  int64_t peak_bytes() const override { return device_->meter().peak_bytes; }
  std::vector<std::string> kernels() const override { return kernel_lines(run_.plan()); }
  std::optional<double> graph_build_us() const override { return build_us_; }

 private:
  std::shared_ptr<Device> device_;
  std::shared_ptr<OpWeights> weights_;
  PlanExecutor run_;
  int copies_;
  double build_us_ = 0;
  Graph graph_;
  Event begin_;
  Event end_;
};

/// What `values` are as codes of `code` with one scale, quantised as activations, keys and values are.
std::vector<float> through_codes(DType code, std::span<const float> values);

/// Largest difference over the root mean square of what was expected.
struct SampleCheck {
  std::vector<double> got;
  std::vector<double> want;

  void add(double g, double w) {
    got.push_back(g);
    want.push_back(w);
  }
  CheckResult result(std::string what, Precision precision) const;
};

}  // namespace tandem::kernels
