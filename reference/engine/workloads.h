// The three kinds of case that the reference computes.
#pragma once

#include <memory>

#include "harness/engine/engine.h"
#include "harness/model/generation.h"
#include "reference/engine/reference_engine.h"

namespace tandem::reference {

/// One encoder pass.
std::unique_ptr<Workload> encoder_workload(std::shared_ptr<const LoadedModel> model,
                                           const TransformerBatch& source);
/// One decoder step that appends position tgt; encodes and fills the cache first.
std::unique_ptr<Workload> decoder_workload(std::shared_ptr<const LoadedModel> model,
                                           const TransformerBatch& source, int tgt);
/// Encoder and tgt greedy steps.
std::unique_ptr<Workload> generate_workload(std::shared_ptr<const LoadedModel> model,
                                            const TransformerBatch& source, int tgt, bool stop_at_eos);

/// Encoder and decoding by any strategy; the tokens are those of the best hypotheses.
std::unique_ptr<Workload> decode_workload(std::shared_ptr<const LoadedModel> model,
                                          const TransformerBatch& source, const GenerationConfig& generation);

/// Column `step` of tokens [batch, steps].
std::vector<int32_t> token_column(std::span<const int32_t> tokens, int steps, int step);

}  // namespace tandem::reference
