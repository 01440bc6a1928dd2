// Beam search as Hugging Face transformers defines it (GenerationMixin._beam_search of version 5), for one source.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "harness/model/generation.h"
#include "reference/model/decode.h"
#include "reference/ops/matrix.h"
#include "reference/ops/ranks.h"

namespace tandem::reference {

/// Logits [beams, vocab] of the next token when row r continues row parents[r] of the call before with token ids[r].
/// The first call has the decoder's start in every row, and parents 0, 1, 2, ...
using BeamStep = std::function<Matrix(std::span<const int32_t> parents, std::span<const int32_t> ids)>;

/// A sequence, the decoder's start first, and its score.
struct Beam {
  std::vector<int32_t> tokens;
  float score = 0;
  int32_t parent = 0;     ///< row of the step that it continues
  bool finished = false;  ///< ended by eos or by its length
};

/// A running beam, by its place, and a token that continues it.
struct Continuation {
  float score = 0;
  int32_t beam = -1;
  int32_t token = 0;
};
/// The `count` best, best first; of equal scores the earlier beam's, then the lower token.
std::vector<Continuation> best_continuations(std::vector<Continuation> all, size_t count);

/// The search between two steps.
class BeamSearch {
 public:
  explicit BeamSearch(const GenerationConfig& g);

  /// No step is needed any more.
  bool over() const { return over_; }
  /// What goes on, g.beams of them, best first: each is a row of the next step.
  const std::vector<Beam>& running() const { return running_; }
  /// Takes the logits [beams, vocab] that follow the running beams; of a part of the vocabulary, each rank's best
  /// continuations are searched together.
  void advance(const Matrix& logits, const VocabularyPart& part = {});
  /// The same, from the continuations that were found: at least as many as kept(), where there are so many.
  void advance(std::vector<Continuation> found);
  /// Continuations looked at: enough that g.beams go on even if every beam ends in every way it can.
  size_t kept() const;
  /// The g.beams best that have finished, best first; empty tokens where fewer have.
  const std::vector<Beam>& finished() const { return finished_; }

 private:
  GenerationConfig g_;
  std::vector<Beam> running_;
  std::vector<Beam> finished_;
  int length_ = 1;
  bool over_;
};

/// The n_best hypotheses, best first.
std::vector<Hypothesis> beam_search(const GenerationConfig& g, const BeamStep& step,
                                    const VocabularyPart& part = {});

}  // namespace tandem::reference
