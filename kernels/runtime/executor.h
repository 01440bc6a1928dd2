// Runs a StepPlan on a card: one arena for all its buffers, one launch an operation.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "harness/engine/plan.h"
#include "harness/memory/memory_resource.h"
#include "kernels/decoding/decoding.h"
#include "kernels/norm/norm.h"
#include "kernels/runtime/device.h"
#include "kernels/runtime/device_model.h"
#include "kernels/runtime/structured/structured_products.h"

namespace tandem::kernels {

/// Owns the memory of one case. Launches only: no allocation, no synchronisation after the constructor, so
/// every section can be captured. The device must outlive it, and so must the weights that the plan's
/// operations point to.
class PlanExecutor {
 public:
  /// Finds the GEMM choices, allocates, fills the arena with NaN (nothing may depend on what a block held
  /// before), fills the constant inputs (sinusoids, T5's bias by distance, a matrix's products
  /// with a norm's weights). Before anything is allocated it
  /// throws OutOfMemory when the plan cannot fit, and what check_kernels() throws.
  PlanExecutor(Device& device, MemoryResource& memory, StepPlan plan);
  ~PlanExecutor();
  PlanExecutor(const PlanExecutor&) = delete;
  PlanExecutor& operator=(const PlanExecutor&) = delete;

  const StepPlan& plan() const { return plan_; }
  Device& device() const { return device_; }
  /// Bytes of the arena, of the workspaces and of matrices in another form than the weights have.
  int64_t bytes() const {
    return arena_.bytes() + workspace_.bytes() + head_workspace_.bytes() + structured_.bytes();
  }

  /// Enqueues a section. `logits`, when given, receives every logit of the step's head, [batch, vocab], on
  /// the device.
  void run(PlanSection section, float* logits = nullptr);

  bool has(std::string_view buffer) const { return plan_.has(buffer); }
  /// A buffer's start on the device. Throws Error for a name that the plan does not have.
  template <typename T>
  T* data(std::string_view buffer) const {
    return reinterpret_cast<T*>(base() + plan_.buffer(buffer).offset_bytes);
  }
  /// Copies host values to the start of a buffer, in stream order, and waits.
  void upload(std::string_view buffer, const void* values, int64_t bytes);
  /// Fills a buffer of floating-point values with random ones in (-scale, scale), or of codes of 8 bits with such codes.
  void fill_random(std::string_view buffer, float scale);
  /// The state in which a beam search begins; nothing for a plan without one.
  void start_search();
  /// Copies a buffer to the host after everything enqueued, as fp32 or as integers.
  std::vector<float> floats(std::string_view buffer) const;
  std::vector<int32_t> integers(std::string_view buffer) const;
  /// The same of a part of a buffer, row after row.
  std::vector<float> floats(const PlanTensor& tensor) const;

  /// Calls `see` with each operation before its launch: what it reads lies there then, after everything enqueued.
  void observe(std::function<void(const PlanOp&)> see) { see_ = std::move(see); }

 private:
  void launch(const EmbedOp& op);
  void launch(const NormOp& op);
  void launch(const DenseOp& op);
  void launch(const ActivationOp& op);
  void launch(const EncoderAttentionOp& op);
  void launch(const SelfAttentionOp& op);
  void launch(const CrossAttentionOp& op);
  void launch(const HeadOp& op);
  void launch(const SelectOp& op);
  void launch(const ChooseOp& op);
  void launch(const BeamOp& op);
  void launch(const QuantiseOp& op);
  void launch(const CommOp& op);
  void launch(const PickOp& op);
  void launch(const RowSumsOp& op);
  void launch(const CandidatesOp& op);
  void launch_skinny_dense(const DenseOp& op);
  void launch_tiled_dense(const DenseOp& op);
  void launch_library_dense(const DenseOp& op);

  NormParams norm_params(const NormOp& op) const;
  DecodingRules rules(const PlanTensor& table) const;
  StepLogits step_logits(const PlanTensor& logits, const TensorView& bias) const;
  StepState step_state(const TokenState& state) const;
  BeamParams beam_params(const BeamOp& op) const;
  RankLists rank_lists(const RankChoices& ranks) const;

  GemmProblem problem(const DenseOp& op) const;
  void find_products();
  void poison();
  void fill_constants();
  void check_fits(int64_t bytes) const;
  void fill_norm_sums(const DenseOp& op);
  void fill_distance_bias(const RelativeBiasRef& bias, int heads, bool bidirectional);
  char* base() const { return static_cast<char*>(arena_.data()); }
  void* at(const PlanTensor& t) const;
  template <typename T>
  T* at(const PlanTensor& t) const {
    return static_cast<T*>(at(t));
  }
  DType type(const PlanTensor& t) const { return plan_.buffers[t.buffer].dtype; }
  DType type_or(const PlanTensor& t, DType none) const { return t.empty() ? none : type(t); }

  Device& device_;
  MemoryResource& memory_;
  StepPlan plan_;
  std::map<GemmProblem, Gemm, bool (*)(const GemmProblem&, const GemmProblem&)> products_;
  std::map<int, Gemm*> product_of_op_;
  StructuredProducts structured_;
  MemoryBlock arena_;
  MemoryBlock workspace_;       // of the library's products; they run one after the other
  MemoryBlock head_workspace_;  // of the fused head or of the selection
  int op_ = 0;                  // the operation being launched
  float* logits_ = nullptr;     // where the running section's head stores its logits
  std::function<void(const PlanOp&)> see_;
  bool dependent_ = false;             // does the next kernel follow one of the same section?
  bool behind_library_ranks_ = false;  // which starts kernels in ways that none can depend on
  AllReduceChoice all_reduce_;
};

}  // namespace tandem::kernels
