// What happens to the scores of one row between the head and the choice of a token. Each function is the processor of
// the same meaning in Hugging Face transformers (generation/logits_process.py), and process() applies them in its order.
// Scores are of a part of the vocabulary, all of it by default; ids outside it are another rank's.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "harness/model/generation.h"
#include "reference/ops/ranks.h"

namespace tandem::reference {

/// A token that must not come.
inline constexpr float kNever = -__builtin_huge_valf();

/// log(softmax(row)), [vocab] -> [vocab]; the sum is in double, of ranks in their order.
std::vector<float> log_softmax(std::span<const float> row, const VocabularyPart& part = {});
/// The same from the largest value of all and the logarithm of the sum of exp(value - largest).
std::vector<float> log_softmax(std::span<const float> row, float largest, double log_sum);

/// Every score of a token of `tokens`, once: divided by `penalty` where it is positive, multiplied where negative.
void penalise_repetition(std::span<float> scores, std::span<const int32_t> tokens, double penalty,
                         const VocabularyPart& part = {});
/// Forbids every token that would complete an n-gram that `tokens` already has.
void forbid_repeated_ngrams(std::span<float> scores, std::span<const int32_t> tokens, int n,
                            const VocabularyPart& part = {});
/// Forbids the last token of each bad word whose beginning `tokens` ends with. A bad word that is an eos alone is none.
void forbid_bad_words(std::span<float> scores, std::span<const int32_t> tokens, const GenerationConfig& g,
                      const VocabularyPart& part = {});
/// Everything but these is forbidden, and these have score 0.
void force(std::span<float> scores, std::span<const int32_t> ids, const VocabularyPart& part = {});

/// All of the above as `g` asks, for a sequence that has `tokens` so far, the decoder's start included. `scores`
/// [vocab] are logits for greedy decoding and sampling, log-probabilities for beams.
void process(const GenerationConfig& g, std::span<const int32_t> tokens, std::span<float> scores,
             const VocabularyPart& part = {});
/// The value of `id`, whichever rank has it.
float value_of(std::span<const float> values, int32_t id, const VocabularyPart& part = {});

}  // namespace tandem::reference
