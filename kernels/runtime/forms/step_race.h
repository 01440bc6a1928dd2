// The stopwatch of a race of a step's forms (kernels/plan/step_forms.h): the forms run on the card, in turns.
#pragma once

#include "harness/model/batch.h"
#include "kernels/plan/step_forms.h"
#include "kernels/runtime/workloads.h"

namespace tandem::kernels {

/// The form in which the step of a case runs: as the choice file has it, or raced now and kept there where that is allowed.
/// Nothing without CudaEngineOptions::race_steps, of what is not to be timed (Engine::untimed), and where `kernel` is not auto or
/// ranks share the model; nothing, and a line on stderr, where the card has no room for two forms at once or the library no algorithm.
StepForm step_form(const WorkloadContext& context, const TransformerBatch& batch,
                   const WorkloadParams& params);

}  // namespace tandem::kernels
