// What a lossy form costs: how far it is from the same model, dense and in fp32. Once for all cases of a group.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "harness/engine/engine.h"
#include "harness/record/record.h"
#include "harness/run/group_checks.h"

namespace tandem {

struct AccuracyInput {
  /// values [rows, cols]: an encoder's output, or logits [steps * batch, vocab], both sides' along the truth's tokens. Of
  /// logits also tokens: what each side generates greedily, fed its own, [batch, tgt].
  const Output& own;
  const Output& truth;             ///< the same of the dense fp32 model on the same inputs
  bool logits = false;             ///< false: values that have neither a distribution nor an arg-max
  bool synthetic_weights = false;  ///< weights from a seed: the distribution is not a trained model's
};

/// relative_error over all values, as compare() has it: infinite where a value of either side is NaN or infinite. kl is the
/// mean over rows of KL(truth || own), in nats, of the softmax in double; absent where a value is not finite. tokens_agree
/// is the fraction of rows whose arg-maxes are the same; a row with a NaN agrees with nothing. free_tokens_agree is the
/// fraction of places where both generated the same token. Throws Error for shapes that differ, and for none.
Accuracy compute_accuracy(const AccuracyInput& input);

/// What the accuracy of every case of c's group is measured on: 8 sequences of 32 source tokens, all of full length, and 32
/// generated tokens, greedy, stop fixed, kernel auto, whatever the case has. suite_decoder's is a generation too.
Case accuracy_case(const Case& c);

/// The accuracy of a group, or why it has none.
struct GroupAccuracy {
  std::optional<Accuracy> accuracy = {};
  std::optional<std::string> reason = {};
};
using AccuracyByGroup = std::map<std::string, GroupAccuracy>;  ///< by group_key()

/// Measures the accuracy of c's group on `engine`. suite_encoder: the encoder's output. Otherwise the dense fp32 model
/// generates; both models are fed what it generated, as many steps as give up to `max_logits` logits a side; beside it the
/// lossy model generates by itself. A model whose positions end before these lengths, and an engine that cannot hold either
/// model, leave a reason. Loads the dense fp32 model, then c's own, which is what is loaded afterwards unless there is a
/// reason.
GroupAccuracy measure_accuracy(const Case& c, const ModelConfig& config, HeldEngine& engine,
                               int64_t max_logits);

}  // namespace tandem
