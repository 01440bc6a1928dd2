// Whole sequences by any strategy: greedy, sampling, beam search. Each source is decoded by itself, so that no result
// can depend on what else is in the batch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "harness/model/batch.h"
#include "harness/model/config.h"
#include "harness/model/generation.h"
#include "harness/weights/weights.h"
#include "reference/ops/quantise.h"

namespace tandem::reference {

struct Hypothesis {
  std::vector<int32_t> tokens;  ///< generated, the decoder's start not included; the eos that ended it is
  /// Greedy and sampling: the sum of the tokens' log-probabilities under the model, before any processing. Beams:
  /// transformers' sequences_scores, the sum of processed log-probabilities over (length)^length_penalty.
  double score = 0;
  std::vector<float> log_probabilities;  ///< of each token under the model; greedy and sampling only
};

/// n_best hypotheses of every source, best first (samples in the order drawn). Throws UsageError for a configuration
/// that does not fit the model (generation.h), has a setting that is not computed here, or asks for a length beyond
/// the position table; Error when logits hold NaN. Sampling: `seeds` has one a source; without, it is g.seed plus the
/// source's place.
std::vector<std::vector<Hypothesis>> decode(const ModelConfig& config, const ModelWeights& w,
                                            const TransformerBatch& source, const GenerationConfig& g,
                                            std::span<const uint64_t> seeds = {},
                                            const Numerics& numerics = {});

}  // namespace tandem::reference
