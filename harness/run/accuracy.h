// What a lossy form costs: how far an output is from the same model's, dense and in fp32.
#pragma once

#include "harness/engine/engine.h"
#include "harness/record/record.h"
#include "harness/run/validate.h"

namespace tandem {

struct AccuracyInput {
  const Output&
      own;  ///< values [rows, cols]: an encoder's output, or logits [steps * batch, vocab], step-major
  const Output& truth;  ///< the same of the dense fp32 model on the same inputs
  /// Tokens that the logits were computed along, as many rows as the outputs; absent for values that are no logits, which have
  /// neither a distribution nor an arg-max.
  std::optional<TokenGrid> grid = {};
  bool teacher_forced = false;     ///< both were fed these tokens
  bool synthetic_weights = false;  ///< weights from a seed: the distribution is not a trained model's
};

/// relative_error over all values, as compare() has it: infinite where a value of either side is NaN or infinite. kl is the
/// mean over rows of KL(truth || own), in nats, of the softmax in double; absent where a value is not finite. tokens_agree
/// is the fraction of rows whose arg-maxes are the same; a row with a NaN agrees with nothing. kl and tokens_agree leave
/// out the rows of a sequence after its grid.eos_id. Throws Error for shapes that differ, for none, and for a grid
/// of other rows.
Accuracy compute_accuracy(const AccuracyInput& input);

}  // namespace tandem
