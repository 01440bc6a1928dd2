// One card as the engine uses it: stream, memory levels, library handle and the choices made for it.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "harness/engine/plan.h"
#include "harness/memory/caching_resource.h"
#include "harness/memory/memory_resource.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/structured/structured_gemm.h"
#include "kernels/runtime/ranks/device_ranks.h"

namespace tandem::kernels {

struct CudaEngineOptions {
  int device = 0;
  std::string choices_path = {};   ///< "<run>/gemm-choices.json"; empty: in memory only
  bool choices_read_only = false;  ///< a missing choice is an error that names the problem, not a search
  bool search_choices = true;      ///< false: the library's first suggestion, not timed (tests)
  bool race_steps = false;         ///< `kernel: auto` races the step's forms; off in tests that time nothing
  /// SHA-256 of the program, for which a race's result holds. Asked for by steps alone: the program has to be read.
  std::function<std::string()> build = [] { return std::string(); };
  std::string run_dir = {};  ///< names the Level-1 cache
  int64_t level1_bytes = 0;  ///< cap of the Level-1 cache; 0: its default
  /// The ranks that share a replica's matrices with this one, in host memory; outlives the engine. Null: none do.
  Communicator* tensor = nullptr;
  /// For tests: changes the plan of every workload after it was built, so that the real kernels compute
  /// something else. A change of buffers must place them anew. Empty: nothing is touched.
  std::function<void(StepPlan&)> edit_plan = {};
};

/// Bytes handed out on one device by all levels together, with a peak that can start anew.
struct MemoryMeter {
  int64_t current_bytes = 0;
  int64_t peak_bytes = 0;

  void add(int64_t bytes) {
    current_bytes += bytes;
    if (current_bytes > peak_bytes) peak_bytes = current_bytes;
  }
  void restart_peak() { peak_bytes = current_bytes; }
};

/// Forwards to another resource and counts into a meter.
class MeteredResource : public MemoryResource {
 public:
  MeteredResource(MemoryResource& target, MemoryMeter& meter) : target_(target), meter_(meter) {}

  void* allocate(int64_t bytes) override {
    void* block = target_.allocate(bytes);
    meter_.add(bytes);
    return block;
  }
  void deallocate(void* block, int64_t bytes) noexcept override {
    target_.deallocate(block, bytes);
    meter_.add(-bytes);
  }
  std::string_view level() const override { return target_.level(); }
  MemoryStats stats() const override { return target_.stats(); }

 private:
  MemoryResource& target_;
  MemoryMeter& meter_;
};

class Device {
 public:
  /// Throws DeviceError when there is no such device or it is older than sm_80.
  explicit Device(const CudaEngineOptions& options);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  /// Makes this the thread's current device.
  void activate() const;
  cudaStream_t stream() const { return stream_; }
  void synchronize() const;
  /// Waits for an event of this device's stream. With ranks not for ever: throws RankLost.
  void wait(cudaEvent_t event) const;
  /// Of this rank and those that share a replica with it; null without.
  DeviceRanks* ranks() const { return ranks_.get(); }
  /// This rank's part of every matrix.
  TensorSlice slice() const;
  /// Enqueues a meeting of the ranks, so that what follows begins on all of them at once; nothing without ranks.
  void line_up();
  /// How operations of the plans that are made from now on sum over ranks. The first kAuto measures the ways, or reads what was
  /// measured before, on all ranks. Throws ImpossibleCase for a way that is not there.
  void use_all_reduce(AllReduceChoice choice);
  AllReduceChoice all_reduce() const { return all_reduce_; }
  /// Programmatic dependent launch; off on cards before sm_90 and with TANDEM_ARCH=sm80.
  bool dependent_launch() const { return dependent_launch_; }
  int64_t l2_bytes() const { return l2_bytes_; }
  int64_t total_bytes() const { return total_bytes_; }

  /// The level that allocations stop at, by the word of the `memory` axis: `gpu` is the driver's allocator
  /// itself, `level2` and `level1` the caching allocator over it.
  MemoryResource& memory(std::string_view axis) { return axis == "gpu" ? metered_gpu_ : metered_level2_; }
  MemoryMeter& meter() { return meter_; }
  CachingResource& level2() { return level2_; }
  MemoryResource& gpu() { return *gpu_; }
  /// Bytes that an allocation could still get: free on the card, or held and not handed out by the cache.
  int64_t free_bytes() const;

  const CublasLt& lt() const { return *lt_; }
  /// The product with its choice, searched for when there is none and that is allowed.
  Gemm gemm(const GemmProblem& problem);
  /// From now on dense products without a choice take the library's first suggestion, which is kept nowhere. A search times
  /// each of them a hundred times and more: for products in fp32 of a large batch that is minutes.
  void suggest(bool on) { suggest_ = on; }
  /// cuSPARSELt on this device, opened when it is first asked for; null where there is none, and structured_lacks() says why.
  const StructuredLt* structured();
  /// The same with a 2:4 matrix and the bias that it is bound to. Throws ImpossibleCase where there is no cuSPARSELt.
  StructuredGemm structured_gemm(const GemmProblem& problem, const void* bias);
  /// May algorithms be searched and forms of steps raced, and the results be kept?
  bool may_search() const {
    return options_.search_choices && !suggest_ && choices_->mode() == GemmChoices::Mode::kSearch;
  }
  /// The form that a race found for a step.
  std::optional<StepChoice> step_choice(const std::string& step) const {
    return choices_->find_step({lt_->place(), options_.build()}, step);
  }
  void keep_step(const std::string& step, const StepChoice& choice) {
    choices_->put_step({lt_->place(), options_.build()}, step, choice);
    save_choices();
  }
  /// Writes new choices to their file.
  void save_choices() { choices_->save(); }
  std::string choices_sha256() const { return choices_->size() == 0 ? std::string() : choices_->sha256(); }
  const CudaEngineOptions& options() const { return options_; }

 private:
  CudaEngineOptions options_;
  bool dependent_launch_ = false;
  int64_t l2_bytes_ = 0;
  int64_t total_bytes_ = 0;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<DeviceRanks> ranks_;
  AllReduceChoice all_reduce_ = AllReduceChoice::kAuto;
  bool ways_known_ = false;
  cudaEvent_t all_done_ = nullptr;
  uint32_t* meeting_ = nullptr;  // on the device: a word a rank, and one to give
  std::unique_ptr<MemoryResource> gpu_;
  MemoryBlock first_;  // planted_first_bytes()
  CachingResource level2_;
  MemoryMeter meter_;
  MeteredResource metered_gpu_;
  MeteredResource metered_level2_;
  std::unique_ptr<CublasLt> lt_;
  std::unique_ptr<StructuredLt> structured_;
  bool looked_for_structured_ = false;
  std::unique_ptr<GemmChoices> choices_;
  bool suggest_ = false;
};

}  // namespace tandem::kernels
