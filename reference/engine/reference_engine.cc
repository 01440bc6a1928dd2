#include "reference/engine/reference_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <utility>

#include "harness/base/error.h"
#include "harness/engine/calibration.h"
#include "harness/engine/compare.h"
#include "harness/parallel/parallel.h"
#include "harness/sweep/values.h"
#include "harness/weights/values/seeded.h"
#include "reference/engine/op_workloads.h"
#include "reference/engine/workloads.h"
#include "reference/model/decode.h"
#include "reference/model/decoder.h"
#include "reference/model/encoder.h"
#include "reference/model/generate.h"

namespace tandem::reference {
namespace {

constexpr double kSelfTolerance = 1e-5;

/// Throws ImpossibleCase unless the axis has the one value that the reference computes.
void only(std::string_view axis, std::string_view value, std::string_view allowed) {
  if (value == allowed) return;
  throw ImpossibleCase(
      fmt::format("{}: engine 'reference' computes {} only, not '{}'", axis, allowed, value));
}

/// Single operations are computed in fp32, whatever a model's pass holds in fewer bits.
void check_operation(const Case& c) {
  if (quantises_activations(weight_form(c))) {
    throw ImpossibleCase(fmt::format("precision: engine 'reference' computes '{}' in passes of a model only",
                                     precision_name(c.precision)));
  }
  only("kv", c.kv, "same");
  only("sparsity", c.sparsity, "dense");
  only("calibration", c.calibration, "none");
  only("tp", std::to_string(c.tp), "1");
  only("dp", std::to_string(c.dp), "1");
}

CheckResult result(std::string reference, const Comparison& c) {
  return {.reference = std::move(reference),
          .error = std::max(c.relative_l2, c.worst_row_l2 / kRowSlack),
          .tolerance = kSelfTolerance,
          .where = c.where};
}

/// The sequences of `batch` in reverse order after one token that belongs to none of them.
TransformerBatch reversed_behind_another(const ModelConfig& config, const TransformerBatch& batch) {
  std::vector<std::vector<int32_t>> sequences = {{batch.ids.front()}};
  for (int b = batch.size() - 1; b >= 0; --b) {
    sequences.emplace_back(batch.ids.begin() + batch.offsets[b], batch.ids.begin() + batch.offsets[b + 1]);
  }
  return pack(config, sequences);
}

CheckResult check_encoder(const LoadedModel& m, const TransformerBatch& source) {
  const Matrix encoded = encoder_forward(m.config, m.weights.encoder, source, m.numerics);
  const TransformerBatch other = reversed_behind_another(m.config, source);
  const Matrix other_encoded = encoder_forward(m.config, m.weights.encoder, other, m.numerics);
  Matrix restored(encoded.rows, encoded.cols);
  for (int b = 0; b < source.size(); ++b) {
    const float* from = other_encoded.row(other.offsets[source.size() - b]);
    std::copy_n(from, source.lengths[b] * encoded.cols, restored.row(source.offsets[b]));
  }
  return result("the same sequences packed in another order",
                compare(encoded.values, restored.values, encoded.cols));
}

/// Logits of every step along `tokens` [batch, steps], with a cache against without.
CheckResult check_decoder(const LoadedModel& m, const TransformerBatch& source,
                          std::span<const int32_t> tokens, int steps) {
  const Matrix cached = forced_logits(m.config, m.weights, source, tokens, steps, m.numerics);
  const Matrix uncached = forced_logits_uncached(m.config, m.weights, source, tokens, steps, m.numerics);
  return result("decoding without a K/V cache", compare(cached.values, uncached.values, cached.cols));
}

}  // namespace

void LoadedModel::compute_as(const Case& c, Inputs inputs) {
  const bool own = inputs != Inputs::kUnquantised;
  WeightLayout layout = host.layout;
  layout.form.precision = own ? c.precision : Precision::kFp32;
  weights = bind_weights(layout, host.arena.data());
  const DType kv = kv_dtype(c.precision, parse_kv(c.kv));
  numerics = {.kv = own && dtype_bits(kv) == 8 ? kv : DType::kF32, .bf16_inputs = inputs == Inputs::kRounded};
  numerics.ranks = ranks.get();
  // A model that is whole says what one over so many ranks computes, whose quantised rows have a scale a rank.
  if (!ranks) numerics.input_parts = c.tp;
}

void ReferenceEngine::check_supported(const Case& c) const {
  if (c.suite == Suite::kCollectives) {
    throw ImpossibleCase(
        "suite: engine 'reference' has no devices, whose collectives suite_collectives measures");
  }
  if (is_op_suite(c.suite)) check_operation(c);
  if (c.suite != Suite::kGenerate) only("decode", c.decode, "greedy");
  only("kernel", c.kernel, "auto");
}

std::unique_ptr<WeightSource> ReferenceEngine::source(const Case& c) const {
  return weight_source(parse_weights(c.weights), c.model);
}

void ReferenceEngine::load(const Case& c, const ModelConfig& config, const WeightForm& whole) {
  const auto start = std::chrono::steady_clock::now();
  WeightForm form = whole;
  const bool split = seat_ != nullptr && seat_->group.tp > 1;
  if (split) form.slice = {.degree = seat_->group.tp, .rank = seat_->group.tensor_rank};
  check_made(form);
  const auto values = values_of_form(source(c), weight_layout(config, form), scales().get());
  model_.reset();
  auto model = std::make_shared<LoadedModel>();
  if (split) model->ranks = std::make_shared<TimedCommunicator>(*seat_->tensor);
  model->host = host_weights(config, *values, form);
  model->config = split ? rank_config(model->host.config(), form.slice.degree) : model->host.config();
  for (const std::string& line : values->warnings()) std::cerr << line << '\n';
  model->compute_as(c);
  loaded_case_ = c;
  model_ = std::move(model);
  load_us_ = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

CalibrationStats ReferenceEngine::observed_inputs(const WeightLayout& calibrated) {
  const LoadedModel& m = loaded();
  InputObserver observer(calibrated, m.host.layout, m.host.arena.data());
  const CalibrationBatch batch = calibration_batch(m.config);
  const Numerics numerics{.observe = [&](MatrixView x, const DenseWeight& w) {
    if (InputStats* stats = observer.of(w.weight.data))
      stats->add({x.data, static_cast<size_t>(x.rows * x.cols)}, x.rows);
  }};
  reference::forced_logits(m.config, m.weights, batch.source, batch.tokens, batch.steps, numerics);
  return observer.take();
}

std::optional<int64_t> ReferenceEngine::weights_bytes() const {
  if (!model_) return std::nullopt;
  return model_->host.layout.bytes;
}

std::optional<WeightCount> ReferenceEngine::weight_count() const {
  return model_ ? std::optional(model_->host.count) : std::nullopt;
}

const LoadedModel& ReferenceEngine::loaded() const {
  if (!model_) throw Error("engine 'reference': no model is loaded");
  return *model_;
}

std::unique_ptr<Workload> ReferenceEngine::prepare(const Case& c, const TransformerBatch& batch) {
  loaded();
  switch (c.suite) {
    case Suite::kEncoder:
      return encoder_workload(model_, batch);
    case Suite::kDecoder:
      return decoder_workload(model_, batch, c.tgt);
    case Suite::kGenerate:
      return c.decode == "greedy" ? generate_workload(model_, batch, c.tgt, c.stop == "eos")
                                  : decode_workload(model_, batch, case_generation(c, model_->config));
    default:
      throw ImpossibleCase(fmt::format(
          "suite: engine 'reference' computes encoder, decoder and generate, not '{}'", suite_name(c.suite)));
  }
}

Output ReferenceEngine::forced_logits(const TransformerBatch& batch, std::span<const int32_t> tokens,
                                      int steps) {
  const LoadedModel& m = loaded();
  Matrix logits = reference::forced_logits(m.config, m.weights, batch, tokens, steps, m.numerics);
  return {.values = std::move(logits.values), .rows = logits.rows, .cols = logits.cols, .tokens = {}};
}

std::vector<std::vector<Sequence>> ReferenceEngine::decode(const TransformerBatch& batch,
                                                           const GenerationConfig& generation,
                                                           std::span<const uint64_t> seeds) {
  const LoadedModel& m = loaded();
  std::vector<std::vector<Sequence>> out;
  for (std::vector<Hypothesis>& found :
       reference::decode(m.config, m.weights, batch, generation, seeds, m.numerics)) {
    std::vector<Sequence>& of_source = out.emplace_back();
    for (Hypothesis& h : found) of_source.push_back({.tokens = std::move(h.tokens), .score = h.score});
  }
  return out;
}

std::optional<CheckResult> ReferenceEngine::self_check(const Case& c, const TransformerBatch& batch) {
  const LoadedModel& m = loaded();
  if (c.suite == Suite::kEncoder) return check_encoder(m, batch);
  // For suite_decoder these are the very tokens of the case; suite_generate's own would prove no more.
  return check_decoder(m, batch, decoder_prefix(m.config, batch.size(), c.tgt, kInputSeed), c.tgt);
}

bool ReferenceEngine::take(Inputs inputs) {
  loaded();
  model_->compute_as(loaded_case_, inputs);
  return true;
}

OpWorkload ReferenceEngine::prepare_op(const Case& c, const ModelConfig& config) {
  switch (c.suite) {
    case Suite::kLimits:
      return limits_op(c);
    case Suite::kKernels:
      return kernels_op(c, config);
    case Suite::kMemory:
      return memory_op(c, config);
    default:
      throw ImpossibleCase(fmt::format("suite: '{}' has no operations", suite_name(c.suite)));
  }
}

}  // namespace tandem::reference
