#include "harness/run/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "harness/base/error.h"
#include "harness/base/sha256.h"
#include "harness/cost/cost.h"
#include "harness/engine/calibration.h"
#include "harness/engine/compare.h"
#include "harness/parallel/communicator.h"
#include "harness/run/case_cost.h"
#include "harness/run/passes.h"
#include "harness/weights/sparsity.h"

namespace tandem {
namespace {

/// A quantised case may be this many times as wrong as the reference becomes when its activations are rounded to bf16 first.
constexpr double kRoundingSlack = 4;
/// The same where whole activations are quantised: an engine that is right turns codes as independent rounding does. Beside the
/// change by rounding, which a single row may show too small by luck, stands what quantising itself changes.
constexpr double kTurnedSlack = 2;
/// Scores of two beams' sequences so near, relative, may change their order by rounding.
constexpr double kNearScores = 1e-4;

int layers_through(const Case& c, const ModelConfig& config) {
  return config.encoder.layers + (c.suite == Suite::kEncoder ? 0 : config.decoder.layers);
}

/// How much rounding through this many layers grows over that through four.
double growth(int layers) {
  return std::sqrt(std::max(1.0, layers / 4.0));
}

/// Are activations, keys or values of the case quantised? Then a rounding in the last bits turns whole codes, and only the
/// case itself shows what that does.
bool quantises(const Case& c) {
  return quantises_activations(weight_form(c)) || dtype_bits(kv_dtype(c.precision, parse_kv(c.kv))) == 8;
}

/// What is compared of one case: the engine's own output, and for suite_generate the logits along its own tokens.
struct Computed {
  Output own;
  std::vector<int32_t> inputs;  // suite_generate
  int steps = 0;
  Output logits;
};

Computed compute(Engine& engine, const Case& c, const ModelConfig& config, const TransformerBatch& batch,
                 int64_t max_logits) {
  Computed out;
  out.own = run_once(engine, c, batch);
  if (c.suite == Suite::kGenerate) {
    out.steps = logit_steps(config, c.batch, c.tgt, max_logits);
    out.inputs = retrace_inputs(config, out.own, c.batch, c.tgt, out.steps);
    out.logits = engine.forced_logits(batch, out.inputs, out.steps);
  }
  return out;
}

void record_check(const CheckResult& r, Validation& v) {
  v.check = Check{.reference = r.reference, .error = r.error, .tolerance = r.tolerance};
  if (!std::isfinite(r.error)) v.check->error.reset();
  if (r.ok()) return;
  v.status = Status::kInvalid;
  v.check->where = r.where;
  v.reason =
      fmt::format("error {:.3g} over {:.3g} against {}: {}", r.error, r.tolerance, r.reference, r.where);
}

TokenGrid grid_of(const Case& c, const ModelConfig& config, const Computed& got) {
  const bool generate = c.suite == Suite::kGenerate;
  return {.tokens = got.own.tokens,
          .batch = c.batch,
          .steps = generate ? got.steps : 1,
          .stride = generate ? c.tgt : 1,
          .eos_id = c.stop == "eos" ? config.eos_id : -1};
}

/// What a case is compared with.
struct Truth {
  GroupChecks& shared;
  HeldEngine& engine;  ///< loaded
  Case c;              ///< what it computes
  std::string name;
  std::optional<double> tolerance = {};  ///< else the precision's, or that of quantised_tolerance
};

GroupChecks::Truth compute_truth(const Truth& truth, const TransformerBatch& batch, const Computed& got) {
  Engine& engine = truth.engine.engine();
  return truth.shared.truth(pass_key(truth.engine, truth.c, batch, got.inputs), [&] {
    if (truth.c.suite == Suite::kGenerate) return engine.forced_logits(batch, got.inputs, got.steps);
    return run_once(engine, truth.c, batch);
  });
}

/// The relative change of `exact`, which the engine has just computed, when it takes its inputs otherwise.
double change(const Truth& truth, Inputs inputs, const TransformerBatch& batch, const Computed& got,
              const Output& exact) {
  if (!truth.engine.take(inputs)) {
    throw Error(fmt::format("validation: engine '{}' takes its inputs in one way only",
                            truth.engine.engine().name()));
  }
  const auto other = compute_truth(truth, batch, got);
  truth.engine.take(Inputs::kOwn);
  return compare(other->values, exact.values, exact.cols).relative_l2;
}

/// The reference as the truth of a case, loaded with its weights. Kernels and levels of memory are not the reference's.
Truth reference_truth(const Case& c, const ModelConfig& config, const WeightForm& form, std::string name,
                      GroupChecks& shared) {
  const Case plain;
  Truth truth{.shared = shared, .engine = shared.reference(), .c = c, .name = std::move(name)};
  truth.c.kernel = plain.kernel;
  truth.c.memory = plain.memory;
  truth.c.allreduce = plain.allreduce;
  truth.engine.engine().use_scales(shared.own().engine().scales());
  truth.engine.load(truth.c, config, form);
  return truth;
}

/// The tolerance of a case that quantises, and how it was made.
std::pair<double, std::string> quantised_tolerance(const Truth& truth, const TransformerBatch& batch,
                                                   const Computed& got, const Output& exact) {
  const double rounding = change(truth, Inputs::kRounded, batch, got, exact);
  std::string how = fmt::format("rounding its activations to bf16 changes it by {:.3g}", rounding);
  if (!quantises_activations(weight_form(truth.c))) return {kRoundingSlack * rounding, how};
  const double quantising = change(truth, Inputs::kUnquantised, batch, got, exact);
  how += fmt::format(", quantising them by {:.3g}", quantising);
  return {std::min(kRoundingSlack * rounding, kTurnedSlack * std::max(rounding, quantising)), how};
}

/// Compares with the truth, and gives it back.
GroupChecks::Truth judge(const Case& c, const ModelConfig& config, const TransformerBatch& batch,
                         const Computed& got, const Truth& by, Validation& v) {
  const bool generate = c.suite == Suite::kGenerate;
  const auto truth = compute_truth(by, batch, got);
  const Output& own = generate ? got.logits : got.own;
  const Comparison comparison = compare(own.values, truth->values, truth->cols);
  std::string name = by.name;
  double tol = 0;
  if (by.tolerance) {
    tol = *by.tolerance;
  } else if (quantises(c)) {
    const auto [own_tolerance, how] = quantised_tolerance(by, batch, got, *truth);
    tol = own_tolerance;
    name += fmt::format(" ({})", how);
  } else {
    tol = tolerance(c.precision, layers_through(c, config));
  }

  Check& check = v.check ? *v.check : v.check.emplace();
  check.reference += (check.reference.empty() ? "" : " + ") + name;
  check.error = std::max(check.error.value_or(0), comparison.relative_l2);
  check.tolerance = tol;
  if (!comparison.within(tol)) {
    v.status = Status::kInvalid;
    check.where = comparison.where;
    v.reason = fmt::format("relative L2 error {:.3g} over {:.3g} against {}: {}", comparison.relative_l2, tol,
                           name, comparison.where);
    if (!std::isfinite(comparison.relative_l2)) check.error.reset();
    return truth;
  }
  // Arg-maxes along a sequence say nothing of one that was drawn or searched: judge_sequences does.
  if (c.suite == Suite::kEncoder || c.decode != "greedy") return truth;
  const TokenComparison tokens = compare_tokens(grid_of(c, config, got), own, *truth);
  check.tokens_compared = check.tokens_compared.value_or(0) + tokens.compared;
  check.tokens_excused = check.tokens_excused.value_or(0) + tokens.excused;
  check.tokens_equal = check.tokens_equal.value_or(true) && tokens.wrong == 0;
  if (tokens.wrong == 0) return truth;
  v.status = Status::kInvalid;
  check.where = tokens.where;
  v.reason =
      fmt::format("{} of {} tokens differ from {}: {}", tokens.wrong, tokens.compared, name, tokens.where);
  return truth;
}

/// What a search or a draw chose: whole sequences of both engines in fp32, whatever the precision of the case, so that few
/// differ by rounding. Sequences of nearly equal scores are excused, and one draw in a hundred at a border of two tokens.
void judge_sequences(const Case& c, const ModelConfig& config, const TransformerBatch& batch,
                     GroupChecks& shared, Validation& v) {
  if (c.decode == "greedy" || v.status != Status::kOk) return;
  const Case exact = in_fp32(c);
  const GenerationConfig g = case_generation(exact, config);
  shared.own().load(exact, config, weight_form(exact));
  shared.reference().load(exact, config, weight_form(exact));
  const auto found = shared.own().engine().decode(batch, g);
  const auto want = shared.reference().engine().decode(batch, g);
  const int64_t drawn = g.sample ? 1 + batch.size() / 100 : 0;
  int64_t excused = 0, wrong = 0;
  for (size_t b = 0; b < want.size(); ++b) {
    const Sequence& theirs = want[b].front();
    if (found.at(b).front().tokens == theirs.tokens) continue;
    const double apart = std::abs(found[b].front().score - theirs.score);
    if (!g.sample && apart <= kNearScores * std::max(1.0, std::abs(theirs.score))) {
      ++excused;
    } else if (++wrong == 1) {
      v.check->where =
          fmt::format("sequence {}: score {:.6g} instead of {:.6g}", b, found[b].front().score, theirs.score);
    }
  }
  v.check->reference += " + its sequences in fp32";
  v.check->tokens_compared = v.check->tokens_compared.value_or(0) + batch.size();
  v.check->tokens_excused = v.check->tokens_excused.value_or(0) + excused + (wrong <= drawn ? wrong : 0);
  v.check->tokens_equal = v.check->tokens_equal.value_or(true) && wrong <= drawn;
  if (wrong <= drawn) {
    v.check->where.reset();
    return;
  }
  v.status = Status::kInvalid;
  v.reason = fmt::format("decode: {} of {} sequences differ from the reference's: {}", wrong, batch.size(),
                         *v.check->where);
}

/// A witness of the case's code path against the reference.
GroupChecks::WitnessCheck check_witness(const Case& c, const Witness& w, const ValidateOptions& options,
                                        GroupChecks& shared) {
  const TransformerBatch batch = case_batch(w.c, w.config);
  shared.own().load(w.c, w.config, weight_form(c));
  const Computed got = compute(shared.own().engine(), w.c, w.config, batch, options.max_logits);
  const Truth truth = reference_truth(w.c, w.config, weight_form(c), "reference on a witness", shared);
  Validation v;
  v.status = Status::kOk;
  const auto exact = judge(w.c, w.config, batch, got, truth, v);
  GroupChecks::WitnessCheck check;
  if (quantises(c)) check.quantising = change(truth, Inputs::kUnquantised, batch, got, *exact);
  judge_sequences(w.c, w.config, batch, shared, v);
  check.status = v.status;
  check.reason = v.reason;
  check.check = v.check;
  return check;
}

/// Too large for the reference: a witness of the same code path against it, once for all cases that have the same one, then
/// the whole case against the engine's own fp32 on weights rounded alike (for an fp32 case: against the library's kernels).
/// Where activations are quantised that fp32 is another computation: the whole case may be as far from it as 4 times the
/// witness, grown with its layers.
Computed validate_large(const Case& c, const ModelConfig& config, const TransformerBatch& batch,
                        const ValidateOptions& options, GroupChecks& shared, Validation& v) {
  const Witness w = make_witness(c, config, options.reference_flops);
  const std::string key = fmt::format("{} {} {}", case_to_json(w.c).dump(), nlohmann::json(w.config).dump(),
                                      form_text(weight_form(c)));
  auto known = shared.witnesses.find(key);
  if (known == shared.witnesses.end())
    known = shared.witnesses.emplace(key, check_witness(c, w, options, shared)).first;
  const GroupChecks::WitnessCheck& witness = known->second;
  v.status = witness.status;
  v.reason = witness.reason;
  v.check = witness.check;
  Truth truth{.shared = shared, .engine = shared.own(), .c = in_fp32(c), .name = "fp32 on the card"};
  if (witness.quantising) {
    truth.tolerance = kRoundingSlack * *witness.quantising * growth(layers_through(c, config)) /
                      growth(layers_through(w.c, w.config));
    truth.name += fmt::format(" (the witness is {:.3g} from its own)", *witness.quantising);
  } else if (c.precision == Precision::kFp32) {
    truth.c.kernel = "library";
    truth.name = "library kernels";
  }

  HeldEngine& engine = shared.own();
  engine.load(c, config, weight_form(c), Purpose::kCase);
  Computed got = compute(engine.engine(), c, config, batch, options.max_logits);
  if (v.status != Status::kOk) return got;
  engine.load(truth.c, config, weight_form(c));
  judge(c, config, batch, got, truth, v);
  return got;
}

/// A lossy case that is right passes only with the accuracy of its group, which the first case of it measures.
void state_accuracy(const Case& c, const ModelConfig& config, const ValidateOptions& options,
                    GroupChecks& shared, Validation& v) {
  if (v.status != Status::kOk || !is_lossy(c)) return;
  AccuracyByGroup here;
  AccuracyByGroup& known = options.accuracies != nullptr ? *options.accuracies : here;
  const std::string key = group_key(c);
  auto found = known.find(key);
  if (found == known.end())
    found = known.emplace(key, measure_accuracy(c, config, shared.own(), options.max_logits)).first;
  const auto& [accuracy, reason] = found->second;
  if (const auto fault = accuracy_fault(c, accuracy)) {  // not a number: no line can carry it
    v.status = accuracy ? Status::kInvalid : Status::kError;
    v.reason = reason ? fmt::format("{} ({})", *fault, *reason) : *fault;
  } else {
    v.accuracy = accuracy;
  }
}

/// The engine's check by a second way, once for all cases that it is the same for.
std::optional<CheckResult> self_check(const Case& c, const TransformerBatch& batch, GroupChecks& shared) {
  const std::string key = pass_key(shared.own(), c, batch);
  if (const auto known = shared.self_checks.find(key); known != shared.self_checks.end())
    return known->second;
  const auto result = shared.own().engine().self_check(c, batch);
  if (result) shared.self_checks.emplace(key, *result);
  return result;
}

void validate_model_case(const Case& c, const ValidateOptions& options, GroupChecks& shared, Validation& v) {
  const ModelConfig config = load_model(c.model);
  const TransformerBatch batch = case_batch(c, config);
  v.status = Status::kOk;
  Computed got;

  HeldEngine& engine = shared.own();
  const bool truth = engine.engine().traits().is_truth;
  if (truth && c.tp == 1) {
    engine.load(c, config, weight_form(c), Purpose::kCase);
    got.own = run_once(engine.engine(), c, batch);
    const auto self = self_check(c, batch, shared);
    if (!self) throw Error("the reference gave no check of its own");
    record_check(*self, v);
  } else if (truth || case_cost(c, config).flops() <= options.reference_flops) {
    engine.load(c, config, weight_form(c), Purpose::kCase);
    got = compute(engine.engine(), c, config, batch, options.max_logits);
    Truth by = reference_truth(c, config, weight_form(c), std::string(kTruthEngine), shared);
    if (truth) by.name += " on one rank";
    // It computes in fp32 whatever the precision: only the order of sums differs.
    if (truth && !quantises(c)) by.tolerance = tolerance(Precision::kFp32, layers_through(c, config));
    judge(c, config, batch, got, by, v);
    judge_sequences(c, config, batch, shared, v);
  } else {
    got = validate_large(c, config, batch, options, shared, v);
  }
  v.check->digest = digest(got.own);
  state_accuracy(c, config, options, shared, v);
}

void validate_op(const Case& c, Engine& engine, Validation& v) {
  OpWorkload op = engine.prepare_op(c, load_model(c.model));
  op.workload->repeat();
  v.status = Status::kOk;
  record_check(op.check(), v);
}

}  // namespace

double tolerance(Precision precision, int layers) {
  const double grown = growth(layers);
  switch (precision) {
    case Precision::kFp32:
      return 1e-5 * grown;
    case Precision::kTf32:
      return 2e-3 * grown;
    case Precision::kFp16:
      return 4e-3 * grown;
    case Precision::kBf16:
    case Precision::kW8a16:
    case Precision::kW4a16:
      return 2e-2 * grown;
    default:
      throw Error(fmt::format("precision: '{}' has no tolerance of its own, but each case its",
                              precision_name(precision)));
  }
}

std::string digest(const Output& output) {
  std::string bytes = fmt::format("{}x{};", output.rows, output.cols);
  bytes.append(reinterpret_cast<const char*>(output.values.data()), output.values.size() * sizeof(float));
  bytes.append(reinterpret_cast<const char*>(output.tokens.data()), output.tokens.size() * sizeof(int32_t));
  return sha256_hex(bytes);
}

Witness make_witness(const Case& c, const ModelConfig& config, double flops_budget) {
  Witness w{c, config};
  // Two layers, or as many as the sparsity needs to remove one of.
  const double removed = parse_sparsity(c.sparsity).layers;
  const auto few = [&](int layers) {
    int n = std::min(2, layers);
    while (removed != 0 && n < layers && (removed_units(removed, n) < 1 || removed_units(removed, n) >= n))
      ++n;
    return n;
  };
  w.config.encoder.layers = few(config.encoder.layers);
  w.config.decoder.layers = few(config.decoder.layers);
  w.config.vocab = std::min(config.vocab, 4099);  // odd on purpose: vocabularies are
  w.config.pad_id = std::min(config.pad_id, w.config.vocab - 1);
  w.config.eos_id = std::min(config.eos_id, w.config.vocab - 1);
  w.config.decoder_start_id = std::min(config.decoder_start_id, w.config.vocab - 1);
  // A file's sequences have the lengths and ids of the whole case.
  if (parse_lengths(c.lengths).kind == LengthsSpec::Kind::kIds) w.c.lengths = "full";
  auto over = [&] { return case_cost(w.c, w.config).flops() > flops_budget; };
  while (over() && w.c.tgt > 4 && c.suite == Suite::kGenerate) w.c.tgt /= 2;
  while (over() && w.c.src > 8) w.c.src /= 2;
  while (over() && w.c.batch > 1) w.c.batch /= 2;
  return w;
}

TokenComparison compare_tokens(const TokenGrid& grid, const Output& own, const Output& truth) {
  TokenComparison result;
  for (int b = 0; b < grid.batch; ++b) {
    for (int t = 0; t < grid.steps; ++t) {
      const int64_t row = (static_cast<int64_t>(t) * grid.batch + b) * truth.cols;
      const float* want = truth.values.data() + row;
      const float* have = own.values.data() + row;
      const int32_t token = grid.tokens[static_cast<int64_t>(b) * grid.stride + t];
      const auto best = static_cast<int32_t>(std::max_element(want, want + truth.cols) - want);
      ++result.compared;
      if (token != best) {
        double error = 0;
        for (int64_t i = 0; i < truth.cols; ++i) error = std::max(error, std::abs(double{have[i]} - want[i]));
        const bool known = token >= 0 && token < truth.cols;
        if (known && want[best] - want[token] < 2 * error) {
          ++result.excused;
        } else if (++result.wrong == 1) {
          result.where = fmt::format("sequence {} step {}: token {} instead of {}", b, t, token, best);
        }
      }
      if (token == grid.eos_id) break;
    }
  }
  return result;
}

nlohmann::json validation_to_json(const Validation& v) {
  return {{"id", v.id},
          {"status", status_name(v.status)},
          {"reason", v.reason ? nlohmann::json(*v.reason) : nlohmann::json()},
          {"check", v.check ? check_to_json(*v.check) : nlohmann::json()},
          {"accuracy", v.accuracy ? accuracy_to_json(*v.accuracy) : nlohmann::json()}};
}

Validation validation_from_json(const nlohmann::json& j) {
  try {
    Validation v;
    v.id = j.at("id").get<std::string>();
    v.status = parse_status(j.at("status").get<std::string>());
    if (!j.at("reason").is_null()) v.reason = j.at("reason").get<std::string>();
    if (!j.at("check").is_null()) v.check = check_from_json(j.at("check"));
    const auto accuracy = j.find("accuracy");  // a peer that computes nothing lossy says nothing of it
    if (accuracy != j.end() && !accuracy->is_null()) v.accuracy = accuracy_from_json(*accuracy);
    return v;
  } catch (const nlohmann::json::exception& e) {
    throw UsageError(fmt::format("validation: not what the validation pass writes: {}", e.what()));
  }
}

Validation validate(const Case& c, Engine& engine, const ValidateOptions& options) {
  Validation v;
  v.id = case_id(c);
  GroupChecks alone(engine, options.reference, 0);
  try {
    check_combination(c);
    engine.check_supported(c);
    if (is_op_suite(c.suite)) {
      validate_op(c, engine, v);
    } else {
      validate_model_case(c, options, options.shared != nullptr ? *options.shared : alone, v);
    }
  } catch (const ImpossibleCase& e) {
    v.status = Status::kSkipped;
    v.reason = e.what();
  } catch (const OutOfMemory& e) {
    v.status = Status::kOom;
    v.reason = e.what();
  } catch (const RankLost& e) {
    v.status = Status::kRankLost;
    v.reason = e.what();
  } catch (const Error& e) {
    v.status = Status::kError;
    v.reason = e.what();
  }
  return v;
}

}  // namespace tandem
