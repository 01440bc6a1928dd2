// Beam search as Hugging Face transformers defines it (GenerationMixin._beam_search of version 5), for one source.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "harness/model/generation.h"
#include "reference/model/decode.h"
#include "reference/ops/matrix.h"

namespace tandem::reference {

/// Logits [beams, vocab] of the next token when row r continues row parents[r] of the call before with token ids[r].
/// The first call has the decoder's start in every row, and parents 0, 1, 2, ...
using BeamStep = std::function<Matrix(std::span<const int32_t> parents, std::span<const int32_t> ids)>;

/// The n_best hypotheses, best first.
std::vector<Hypothesis> beam_search(const GenerationConfig& g, const BeamStep& step);

}  // namespace tandem::reference
