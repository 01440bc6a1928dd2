// What a chosen token does to its sequence, and greedy choice on top of it: the one account of ends of sequences.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "harness/model/generation.h"
#include "reference/ops/matrix.h"
#include "reference/ops/ranks.h"

namespace tandem::reference {

/// The rule by which sequences end: none of `eos_ids` ends one when it is empty.
struct EndRule {
  std::span<const int32_t> eos_ids = {};
  int32_t pad_id = 0;
};

struct NextToken {
  int32_t id = 0;
  bool ended = false;  ///< has the sequence ended, with this token or before?
};

/// The token that a row gets: `chosen`, or pad when its sequence `ended` before.
NextToken next_token(int32_t chosen, bool ended, const EndRule& rule);

/// Index of the largest value of each row over the whole vocabulary, as arg_max(): each rank brings its best logit and id of
/// every row.
std::vector<int32_t> best_ids(MatrixView logits, const VocabularyPart& part = {});

/// The same for the arg-max of each row of `logits` [rows, vocab]; `ended` [rows].
std::vector<NextToken> greedy_tokens(MatrixView logits, const std::vector<bool>& ended, const EndRule& rule,
                                     const VocabularyPart& part = {});

/// A token by g's rule from processed `scores` [vocab]: their arg-max, or a draw with `uniform` in [0, 1).
int32_t choose_token(const GenerationConfig& g, std::span<const float> scores, double uniform,
                     const VocabularyPart& part = {});

}  // namespace tandem::reference
