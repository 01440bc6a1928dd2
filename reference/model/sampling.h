// Drawing a token: temperature, top-k, top-p, and one uniform number that depends on nothing but the request's seed,
// the sequence's number in it and the step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "harness/model/generation.h"
#include "reference/ops/ranks.h"

namespace tandem::reference {

/// The probabilities that a token is drawn from: softmax of scores / temperature, less what top_k and top_p cut off.
/// Ties with the last of the top_k stay, as in transformers. [vocab] -> [vocab], in double, sum 1 over all ranks. Ranks bring
/// their top_k probabilities and, for top_p, sums of them; no rank sees all scores.
std::vector<double> sampling_distribution(const GenerationConfig& g, std::span<const float> scores,
                                          const VocabularyPart& part = {});

/// Uniform in [0, 1): 53 bits of the counter-based stream of (seed, sequence) at `step`.
double sampling_uniform(uint64_t seed, uint64_t sequence, uint64_t step);

/// The first token at which the running sum of `probabilities`, in order of ids, exceeds `uniform`.
int32_t draw(std::span<const double> probabilities, double uniform, const VocabularyPart& part = {});

}  // namespace tandem::reference
