// The CUDA engine: the only place that joins kernels, memory and plan.
#pragma once

#include <memory>
#include <string>

#include "harness/engine/engine.h"
#include "kernels/runtime/device.h"
#include "kernels/runtime/workloads.h"

namespace tandem::kernels {

/// One rank where its options name others. TANDEM_ARCH=sm80 in the environment keeps it off every sm_90 path. One thread an engine.
class CudaEngine : public Engine {
 public:
  /// Throws DeviceError when there is no usable device, IoError for a choice file that cannot be read.
  explicit CudaEngine(const CudaEngineOptions& options);

  std::string_view name() const override { return "cuda"; }
  /// Throws OutOfMemory, too, for a case whose plan is larger than the card.
  void check_supported(const Case& c) const override;
  void load(const Case& c, const ModelConfig& config, const WeightForm& form) override;
  CalibrationStats observed_inputs(const WeightLayout& calibrated) override;
  double load_us() const override { return load_us_; }
  void expect(const std::vector<Case>& cases) override { expected_ = cases; }
  std::optional<int64_t> weights_bytes() const override;
  std::optional<WeightCount> weight_count() const override;
  std::unique_ptr<Workload> prepare(const Case& c, const TransformerBatch& batch) override;
  void untimed(bool on) override { device_->suggest(on); }
  Output forced_logits(const TransformerBatch& batch, std::span<const int32_t> tokens, int steps) override;
  std::vector<std::vector<Sequence>> decode(const TransformerBatch& batch, const GenerationConfig& generation,
                                            std::span<const uint64_t> seeds = {}) override;
  OpWorkload prepare_op(const Case& c, const ModelConfig& config) override;
  std::string choices_sha256() const override { return device_->choices_sha256(); }

  Device& device() { return *device_; }

 private:
  /// Bytes beside the weights of the largest expected case of `c`'s group; 0 where none is expected.
  int64_t largest_expected(const Case& c, const ModelConfig& config) const;
  WorkloadContext context(const std::string& memory) const;
  void check_card(const Case& c) const;

  std::shared_ptr<Device> device_;
  std::shared_ptr<const DeviceModel> model_;
  std::string loaded_memory_;
  KernelChoice loaded_kernel_ = KernelChoice::kAuto;
  KvType loaded_kv_ = KvType::kSame;
  StepForm loaded_form_;  // of the case prepared last
  double load_us_ = 0;
  std::vector<Case> expected_;
  int64_t largest_case_bytes_ = 0;  // largest_expected() of the loaded group
};

/// Can a CUDA engine run on this device (from 0)? Says why not in `reason`.
bool cuda_usable(int device, std::string* reason);

}  // namespace tandem::kernels
