// Passes of a loaded engine that checks and accuracies are made of.
#pragma once

#include <cstdint>
#include <vector>

#include "harness/engine/engine.h"

namespace tandem {

/// What one repetition of the case computes.
Output run_once(Engine& engine, const Case& c, const TransformerBatch& batch);

/// Steps from 1 to `tgt` whose logits of `batch` sequences, together at most `max_logits` elements, are held at once.
int logit_steps(const ModelConfig& config, int batch, int tgt, int64_t max_logits);

/// Decoder inputs that make an engine retrace the first `steps` of a generation: the start id, then its tokens but the last.
/// `generated` has tokens [batch, tgt]; [batch, steps].
std::vector<int32_t> retrace_inputs(const ModelConfig& config, const Output& generated, int batch, int tgt,
                                    int steps);

}  // namespace tandem
