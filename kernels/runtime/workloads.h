// The cases of suite_encoder, suite_decoder and suite_generate on a card, and teacher-forced logits.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "harness/engine/engine.h"
#include "harness/model/batch.h"
#include "kernels/plan/step_forms.h"
#include "kernels/runtime/device.h"
#include "kernels/runtime/device_model.h"
#include "kernels/runtime/executor.h"

namespace tandem::kernels {

/// What the workloads of one engine share. Shared pointers: a workload outlives a second load.
struct WorkloadContext {
  std::shared_ptr<Device> device;
  MemoryResource* memory = nullptr;
  std::shared_ptr<const DeviceModel> model;
};

struct WorkloadParams {
  KernelChoice kernel = KernelChoice::kAuto;
  KvType kv = KvType::kSame;
  int capacity = 0;  ///< tokens generated, or appended before and by the measured step
  bool stop_at_eos = false;
  /// Kinds of the step that KernelChoice::kAuto does the other way (forms/step_race.h).
  StepForm step_form = {};
  /// How tokens are chosen; none: greedily by the bare logits. capacity must be max_length - 1.
  std::optional<GenerationConfig> generation = {};
  std::vector<uint64_t> seeds =
      {};  ///< sampling: one a source; none: generation.seed plus the source's place
};

/// The request of a case's plan.
PlanRequest plan_request(const ModelConfig& config, const ModelWeights& weights, Precision precision,
                         const TransformerBatch& batch, const WorkloadParams& params);

/// One pass of the encoder, one graph.
std::unique_ptr<Workload> encoder_workload(const WorkloadContext& context, const TransformerBatch& batch,
                                           const WorkloadParams& params);
/// The step that appends position `capacity` (from 1), one graph. The cache is filled once by running the
/// steps before it with the same kernels on decoder_prefix(config, batch, capacity).
std::unique_ptr<Workload> decoder_workload(const WorkloadContext& context, const TransformerBatch& batch,
                                           const WorkloadParams& params);
/// Encoder, cross keys and values, and `capacity` steps: graphs of several steps each, enqueued ahead of the
/// device. When sequences end at eos, the host looks at the count of running ones one graph late and stops
/// enqueuing at 0.
std::unique_ptr<Workload> generate_workload(const WorkloadContext& context, const TransformerBatch& batch,
                                            const WorkloadParams& params);

/// The n_best sequences of every source by `params.generation`.
std::vector<std::vector<Sequence>> decode(const WorkloadContext& context, const TransformerBatch& batch,
                                          const WorkloadParams& params);

/// Logits [steps * batch, vocab], step-major, of steps fed with tokens [batch, steps].
Output forced_logits(const WorkloadContext& context, const TransformerBatch& batch,
                     std::span<const int32_t> tokens, const WorkloadParams& params);

}  // namespace tandem::kernels
