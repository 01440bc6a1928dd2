// The validation pass: before any timing, each case is computed and compared. A case that is wrong gets no time.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include <nlohmann/json.hpp>

#include "harness/engine/engine.h"
#include "harness/record/record.h"
#include "harness/run/accuracy.h"
#include "harness/run/group_checks.h"

namespace tandem {

/// What the pass leaves for one case: a line of validation.jsonl.
struct Validation {
  std::string id;
  Status status = Status::kError;  ///< ok, invalid, skipped, oom or error
  std::optional<std::string> reason;
  std::optional<Check> check;  ///< with the digest that the timed worker must reproduce
  std::optional<Accuracy> accuracy =
      {};  ///< of a model's pass in a lossy form; without it such a case is not ok
};
nlohmann::json validation_to_json(const Validation& v);
/// Throws UsageError for anything else than validation_to_json writes.
Validation validation_from_json(const nlohmann::json& j);

struct ValidateOptions {
  /// Cases of more operations than this are checked by a witness and by the engine's own fp32 instead of the reference.
  double reference_flops = 3e9;
  /// Logits compared of a case checked against the engine's own fp32, and of an accuracy, as elements held at once.
  int64_t max_logits = int64_t{1} << 25;
  /// What was measured for other cases of this process, which this one adds to; null: nothing is kept.
  AccuracyByGroup* accuracies = nullptr;
  /// Makes the reference engine.
  GroupChecks::MakeEngine reference;
  /// What the checks of the case's group share, of the engine that is validated; null: nothing is kept.
  GroupChecks* shared = nullptr;
};

/// Largest relative L2 error of logits (encoder output) that passes: the precision's, times sqrt(layers / 4) from four
/// layers on. `layers` counts the layers that the output went through. Where activations, keys or values are quantised a
/// case has its own, from the reference: 4 times the change there when activations are rounded to bf16 before products and
/// before the cache; for fp8 and int8 no more than twice the larger of that and of what quantising itself changes. Throws
/// Error for these two.
double tolerance(Precision precision, int layers);

/// SHA-256 over shape, values and tokens.
std::string digest(const Output& output);

/// The case cut until the reference can compute it: layers 2 + 2, vocabulary, generated length, source length, batch, in
/// this order; what picks the kernels (batch up to 64, widths, heads, precision) is kept as long as possible.
struct Witness {
  Case c;
  ModelConfig config;
};
Witness make_witness(const Case& c, const ModelConfig& config, double flops_budget);

/// Validates one case on `engine`. Never throws for what is wrong with the case: that is the status.
Validation validate(const Case& c, Engine& engine, const ValidateOptions& options);

/// Tokens of a greedy generation.
struct TokenGrid {
  std::span<const int32_t> tokens;  ///< [batch, stride], of which the first `steps` columns are compared
  int batch = 0;
  int steps = 0;
  int stride = 0;
  int32_t eos_id = -1;  ///< ends the comparison of its sequence; -1: nothing does
};

struct TokenComparison {
  int64_t compared = 0;
  int64_t excused =
      0;  ///< not the truth's arg-max, but within twice the largest logit error of its row: either may win
  int64_t wrong = 0;
  std::string where;
};
/// `own` and `truth`: teacher-forced logits [steps * batch, vocab], step-major, along these very tokens.
TokenComparison compare_tokens(const TokenGrid& grid, const Output& own, const Output& truth);

}  // namespace tandem
