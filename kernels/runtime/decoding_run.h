// One decoder on a card between its steps: its executor, the state that a generation begins with, and what it found.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "harness/parallel/parallel.h"
#include "kernels/runtime/executor.h"
#include "kernels/runtime/workloads.h"

namespace tandem::kernels {

/// What is planned for a case on the engine's device.
PlanRequest request_of(const WorkloadContext& context, const TransformerBatch& batch,
                       const WorkloadParams& params);
/// The plan of a case, as the engine's options want it.
StepPlan plan_of(const WorkloadContext& context, const TransformerBatch& batch, const WorkloadParams& params);

void upload_source(PlanExecutor& run, const TransformerBatch& batch);

class Decoding {
 public:
  Decoding(const WorkloadContext& context, const TransformerBatch& batch, const WorkloadParams& params);

  PlanExecutor& run() { return run_; }
  const ModelConfig& config() const { return context_.model->config; }
  cudaStream_t stream() const { return context_.device->stream(); }
  int batch() const { return batch_; }
  int rows() const { return batch_ * run_.plan().rows_per_source; }

  /// Sets the counters: the next step appends at `position` and is fed `ids` [rows] on the device, or the
  /// start id.
  void start(int position, const int32_t* ids = nullptr);
  /// Feeds the next step `ids` [rows] on the device in place of what the last one chose.
  void feed(const int32_t* ids);
  void encode();
  /// tokens [batch, steps] as [steps, batch] on the device.
  MemoryBlock upload_columns(std::span<const int32_t> tokens, int steps);

  /// Columns of logits that this rank computes.
  int rank_vocab() const { return vocabulary_.count; }
  /// Logits [rows, rank_vocab()] as all ranks together have them, [rows, vocab]. Every rank calls it.
  std::vector<float> of_all_ranks(std::vector<float> logits) const;

  /// What a generation by a GenerationConfig found, after everything enqueued: of every source, best first (samples in the
  /// order drawn).
  std::vector<std::vector<Sequence>> sequences() const;

 private:
  void upload_keys(std::span<const uint64_t> seeds);
  std::vector<Sequence> searched() const;  // a row each
  std::vector<Sequence> chosen() const;

  const WorkloadContext& context_;
  int batch_;
  Slice vocabulary_;
  PlanExecutor run_;
};

}  // namespace tandem::kernels
