// Weights rounded as a lower precision stores them, so that a check of that precision sees its arithmetic
// alone.
#pragma once

#include <span>

#include "harness/base/precision.h"

namespace tandem {

/// Replaces every value by the nearest one of `precision`: fp32 (as they are), tf32, fp16 or bf16. Throws
/// Error for a quantised precision, whose grid depends on scales that its engine chooses.
void round_weights(Precision precision, std::span<float> weights);

}  // namespace tandem
