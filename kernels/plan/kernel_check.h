// What the kernels take: which element types of activations and of weights go together, and which attributes. No CUDA in
// here.
#pragma once

#include "harness/engine/plan.h"

namespace tandem::kernels {

/// Throws UsageError naming operation, tensor, type and what is allowed when no kernel here computes an operation in the
/// element types of its tensors and of the weights that it points to, or with all of its attributes.
void check_kernels(const StepPlan& plan);

}  // namespace tandem::kernels
