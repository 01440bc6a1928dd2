#include "harness/run/accuracy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "harness/base/error.h"
#include "harness/engine/calibration.h"
#include "harness/engine/compare.h"
#include "harness/run/passes.h"

namespace tandem {
namespace {

using Row = std::span<const float>;

void check_shapes(const AccuracyInput& in) {
  const auto whole = [](const Output& o) {
    return o.rows > 0 && o.cols > 0 && static_cast<int64_t>(o.values.size()) == o.rows * o.cols;
  };
  if (!whole(in.own) || !whole(in.truth) || in.own.rows != in.truth.rows || in.own.cols != in.truth.cols) {
    throw Error(fmt::format(
        "accuracy: outputs of {} x {} ({} values) and {} x {} ({} values); one shape is needed", in.own.rows,
        in.own.cols, in.own.values.size(), in.truth.rows, in.truth.cols, in.truth.values.size()));
  }
  if (in.logits && (in.own.tokens.empty() || in.own.tokens.size() != in.truth.tokens.size())) {
    throw Error(fmt::format("accuracy: {} and {} generated tokens; as many are needed", in.own.tokens.size(),
                            in.truth.tokens.size()));
  }
}

/// The largest value's index; absent for a row with a NaN.
std::optional<size_t> arg_max(Row row) {
  size_t best = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    if (std::isnan(row[i])) return std::nullopt;
    if (row[i] > row[best]) best = i;
  }
  return best;
}

/// log(sum(exp(row))), shifted by the largest so that nothing overflows.
double log_sum_exp(Row row) {
  const double top = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float v : row) sum += std::exp(v - top);
  return top + std::log(sum);
}

double divergence(Row truth, Row own) {
  const double truth_norm = log_sum_exp(truth), own_norm = log_sum_exp(own);
  double kl = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    const double log_p = truth[i] - truth_norm, log_q = own[i] - own_norm;
    kl += std::exp(log_p) * (log_p - log_q);
  }
  return std::max(kl, 0.0);  // rounding can leave a little less than nothing
}

Row row_of(const Output& o, int64_t row) {
  return Row(o.values).subspan(static_cast<size_t>(row * o.cols), static_cast<size_t>(o.cols));
}

double equal_fraction(std::span<const int32_t> a, std::span<const int32_t> b) {
  int64_t same = 0;
  for (size_t i = 0; i < a.size(); ++i) same += a[i] == b[i] ? 1 : 0;
  return static_cast<double>(same) / static_cast<double>(a.size());
}

constexpr int kSequences = 8, kSourceTokens = 32, kGeneratedTokens = 32;

void load(HeldEngine& held, const Case& c, const ModelConfig& config) {
  held.engine().check_supported(c);
  held.load(c, config, weight_form(c));
}

}  // namespace

Accuracy compute_accuracy(const AccuracyInput& in) {
  check_shapes(in);
  Accuracy a{.relative_error = compare(in.own.values, in.truth.values, in.truth.cols).relative_l2,
             .tokens = in.own.rows,
             .teacher_forced = in.logits,
             .synthetic_weights = in.synthetic_weights};
  if (!in.logits) return a;
  int64_t same = 0;
  double kl = 0;
  for (int64_t row = 0; row < in.own.rows; ++row) {
    const Row truth = row_of(in.truth, row), own = row_of(in.own, row);
    const auto want = arg_max(truth), have = arg_max(own);
    if (want && want == have) ++same;
    kl += divergence(truth, own);
  }
  const auto rows = static_cast<double>(in.own.rows);
  if (std::isfinite(kl)) a.kl = kl / rows;
  a.tokens_agree = static_cast<double>(same) / rows;
  a.free_tokens_agree = equal_fraction(in.own.tokens, in.truth.tokens);
  return a;
}

Case accuracy_case(const Case& c) {
  Case a = c;
  if (c.suite == Suite::kDecoder) a.suite = Suite::kGenerate;
  a.batch = kSequences;
  a.src = kSourceTokens;
  a.tgt = kGeneratedTokens;
  a.lengths = "full";
  a.decode = "greedy";
  a.stop = "fixed";
  a.kernel = "auto";  // the first case of a group must not decide what the others' records say
  return a;
}

GroupAccuracy measure_accuracy(const Case& c, const ModelConfig& config, HeldEngine& held,
                               int64_t max_logits) {
  Engine& engine = held.engine();
  const Case lossy = accuracy_case(c);
  Case dense = in_fp32(lossy);
  dense.sparsity = "dense";
  const bool logits = lossy.suite == Suite::kGenerate;
  const int steps = logit_steps(config, lossy.batch, lossy.tgt, max_logits);
  std::string_view what = "8 sequences of 32 tokens";
  try {
    check_combination(lossy);
    const TransformerBatch batch = case_batch(lossy, config);
    what = "the dense fp32 model";
    load(held, dense, config);
    Output truth = run_once(engine, dense, batch);
    std::vector<int32_t> inputs;
    const auto add_logits = [&](Output& generated) {
      Output forced = engine.forced_logits(batch, inputs, steps);
      forced.tokens = std::move(generated.tokens);
      generated = std::move(forced);
    };
    if (logits) {
      inputs = retrace_inputs(config, truth, lossy.batch, lossy.tgt, steps);
      add_logits(truth);
    }
    what = "the model itself";
    load(held, lossy, config);
    Output own = run_once(engine, lossy, batch);
    if (logits) add_logits(own);
    return {
        .accuracy = compute_accuracy(
            {.own = own, .truth = truth, .logits = logits, .synthetic_weights = c.weights != "checkpoint"})};
  } catch (const ImpossibleCase& e) {
    return {.reason = fmt::format("{}: {}", what, e.what())};
  } catch (const OutOfMemory& e) {
    return {.reason = fmt::format("{}: {}", what, e.what())};
  }
}

}  // namespace tandem
