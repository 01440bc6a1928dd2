#include "kernels/plan/builder.h"

#include <fmt/format.h>

#include <algorithm>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "kernels/decoding/pack_rules.h"
#include "kernels/decoding/top_list.h"
#include "kernels/gemm/problem.h"
#include "kernels/skinny/skinny_shape.h"

namespace tandem::kernels {
namespace {

/// Throws ImpossibleCase for rules that ranks of a split vocabulary cannot follow by some candidates each.
void check_split(const GenerationConfig& g, int degree) {
  const auto refuse = [&](std::string_view what) {
    throw ImpossibleCase(
        fmt::format("tp: {} ranks that split the vocabulary exchange candidates: {}", degree, what));
  };
  if (const int most = kListCapacity / degree; g.sample && (g.top_k < 1 || g.top_k > most))
    refuse(fmt::format("top_k {} is not allowed; 1 to {}", g.top_k, most));
  if (g.renormalise && !g.sample) refuse("renormalise is not allowed, it needs all scores a second time");
}

}  // namespace

KernelChoice parse_kernel(std::string_view text) {
  if (text == "auto") return KernelChoice::kAuto;
  if (text == "own") return KernelChoice::kOwn;
  if (text == "library") return KernelChoice::kLibrary;
  throw UsageError(fmt::format("kernel: '{}' is not one of auto own library", text));
}

PlanBuilder::PlanBuilder(const PlanRequest& request)
    : request_(request), dtype_(activation_dtype(request.precision)), stream_dtype_(dtype_) {
  plan_.slice = request.slice.value_or(TensorSlice{});
  const auto [degree, rank] = plan_.slice;
  plan_.config = rank_config(request.config, degree);
  if (degree > 1 && request.generation) check_split(*request.generation, degree);
  vocabulary_ = vocabulary_slice(request.config.vocab, degree, rank);
  plan_.precision = request.precision;
  plan_.batch = request.batch;
  plan_.rows_per_source = request.rows_per_source();
  plan_.generation = request.generation;
  plan_.source_tokens = request.source_tokens;
  plan_.max_source = request.max_source;
  plan_.capacity = request.capacity;
}

void PlanBuilder::section(PlanSection section, Side side) {
  const int at = static_cast<int>(plan_.ops.size());
  plan_.sections[static_cast<size_t>(section_)].last = at;
  plan_.sections[static_cast<size_t>(section)] = {.first = at, .last = at};
  section_ = section;
  side_ = side;
  layer_ = -1;

  // The residual stream is kept in fp32 where every product that reads or writes it can: rounding it twenty
  // times over is what a deep pre-norm model loses most by. The library's products have no such residual; partial sums
  // leave the stream to the norms alone.
  const ModelConfig& c = config();
  const int64_t rows = section == PlanSection::kStep ? request_.rows() : request_.source_tokens;
  const bool ends_in_norm = c.placement == NormPlacement::kPost || c.final_norm;
  const bool own = stream_is_own(rows);
  stream_dtype_ = (own || request_.slice) && ends_in_norm ? DType::kF32 : dtype_;
  norms_by_statistics_ = section == PlanSection::kStep && own && statistics_pay(rows);
}

PlanTensor PlanBuilder::scratch(std::string_view name, DType dtype, int64_t rows, int64_t cols) {
  const int index = static_cast<int>(plan_.buffers.size());
  plan_.buffers.push_back({.name = fmt::format("{}#{}", name, index),
                           .dtype = dtype,
                           .elements = rows * cols,
                           .role = BufferRole::kScratch});
  return {.buffer = index, .offset = 0, .rows = rows, .cols = cols, .stride = cols};
}

PlanTensor PlanBuilder::activations(PhaseKind kind, int64_t rows, int64_t cols) {
  return scratch(phase_path(phase(kind)), dtype_, rows, cols);
}

PlanTensor PlanBuilder::state(std::string_view name, DType dtype, int64_t rows, int64_t cols,
                              BufferRole role) {
  const int index = static_cast<int>(plan_.buffers.size());
  plan_.buffers.push_back({.name = std::string(name), .dtype = dtype, .elements = rows * cols, .role = role});
  return {.buffer = index, .offset = 0, .rows = rows, .cols = cols, .stride = cols};
}

PlanTensor PlanBuilder::keep(const PlanTensor& tensor, std::string_view name) {
  PlanBuffer& buffer = plan_.buffers.at(tensor.buffer);
  buffer.name = name;
  buffer.role = BufferRole::kState;
  return tensor;
}

PlanTensor PlanBuilder::materialise(const Stream& stream) {
  if (!stream.pending) {
    if (stream.addend.empty() && !stream.partial) return stream.rows;
    if (stream.addend.empty()) {
      add(PhaseKind::kComm, CommOp{.x = stream.rows, .y = stream.rows});
      return stream.rows;
    }
    throw ImpossibleCase(
        "final_norm: false leaves no norm to add the last residual of a pre-norm model to its partial sums; "
        "allowed: true");
  }
  const PlanTensor y = activations(PhaseKind::kNorm, stream.rows.rows, stream.rows.cols);
  add_norm(stream, {.residual = stream.addend, .y = y, .weight = *stream.pending});
  return y;
}

void PlanBuilder::add_norm(const Stream& x, NormOp op) {
  op.x = x.rows;
  if (x.partial) {
    add(PhaseKind::kComm, CommOp{.x = x.rows, .norm = op});
  } else {
    add(PhaseKind::kNorm, op);
  }
}

Stream PlanBuilder::normed(const Stream& stream, const NormWeight& norm) {
  if (stream.pending) return {.rows = materialise(stream), .pending = norm};
  return {.rows = stream.rows, .pending = norm, .addend = stream.addend, .partial = stream.partial};
}

Stream PlanBuilder::normed_with_sum(const Stream& stream, const NormWeight& norm, PlanTensor& sum) {
  if (stream.pending || (stream.addend.empty() && !stream.partial)) {
    sum = materialise(stream);
    return {.rows = sum, .pending = norm};
  }
  const PlanTensor& x = stream.rows;
  // The kernel reads the residual and writes the sum in one type.
  const DType dtype = plan_.buffers[(stream.addend.empty() ? x : stream.addend).buffer].dtype;
  sum = scratch(phase_path(phase(PhaseKind::kNorm)) + ".sum", dtype, x.rows, x.cols);
  const PlanTensor y = activations(PhaseKind::kNorm, x.rows, x.cols);
  add_norm(stream, {.residual = stream.addend, .sum = sum, .y = y, .weight = norm});
  return {.rows = y, .pending = {}};
}

Stream end_sublayer(PlanBuilder& b, SublayerEnd end, const Residual& skip,
                    const std::optional<NormWeight>& norm) {
  const Stream x{.rows = end.x, .pending = {}};
  if (b.request().slice) {
    if (b.request().slice->rank != 0) end.out.weight.bias = {};
    // Every rank has the residual whole: it is added after the sum over the ranks.
    return {.rows = b.dense(x, end.out), .pending = norm, .addend = skip.rows, .partial = true};
  }
  // The library rounds its product before it adds a residual; a norm adds it to the unrounded sum for the same bytes.
  if (norm && !b.own_product(end.out.kind, end.x, end.out.weight))
    return {.rows = b.dense(x, end.out), .pending = norm, .addend = skip.rows};
  end.out.residual = skip;
  return {.rows = b.dense(x, end.out), .pending = norm};
}

bool PlanBuilder::stream_is_own(int64_t rows) const {
  const ModelConfig& c = config();
  const auto own = [&](PhaseKind kind, const DenseWeight& w) { return skinny(kind, rows, c.d_model, w); };
  // A product as wide as the model stands for those that read the stream.
  DenseWeight square;
  square.weight = {nullptr, weight_dtype(request_.precision), c.d_model, c.d_model};
  if (!own(PhaseKind::kSelfOut, square)) return false;
  if (side_ == Side::kEncoder) {
    return std::ranges::all_of(request_.weights.encoder.layers, [&](const EncoderLayerWeight& layer) {
      return own(PhaseKind::kSelfOut, layer.self.out) && own(PhaseKind::kFfnDown, layer.ffn.down);
    });
  }
  return std::ranges::all_of(request_.weights.decoder.layers, [&](const DecoderLayerWeight& layer) {
    return own(PhaseKind::kSelfOut, layer.self.out) && own(PhaseKind::kCrossOut, layer.cross.out) &&
           own(PhaseKind::kFfnDown, layer.ffn.down);
  });
}

bool PlanBuilder::switched(PhaseKind kind) const {
  const std::vector<PhaseKind>& form = request_.step_form;
  return request_.kernel == KernelChoice::kAuto && std::ranges::find(form, kind) != form.end();
}

bool PlanBuilder::skinny(PhaseKind kind, int64_t rows, int64_t n, const DenseWeight& w) const {
  if (request_.kernel == KernelChoice::kLibrary || rows > kSkinnyMaxRows) return false;
  const DType weight = w.weight.dtype;
  // The library would read codes, or what masks leave, as a matrix of 16 bits that has to be made first, or quantise rows in a
  // pass of its own.
  const bool left = request_.kernel == KernelChoice::kAuto && rows > request_.auto_own_rows;
  const bool given = section_ == PlanSection::kStep && switched(kind);
  if ((left || given) && !coded(weight) && !w.sparse()) return false;
  // Codes by codes of several rows are products of warpgroup tensor cores alone.
  const bool codes_by_codes =
      coded(weight) && quantises_activations({.precision = request_.precision}) && rows > 1;
  if (codes_by_codes && request_.auto_own_rows < kAutoWideRows) return false;
  const auto m = static_cast<int>(rows), columns = static_cast<int>(n), k = static_cast<int>(w.in());
  if (w.sparse()) {
    return !coded(weight) &&
           skinny_supports(dtype_, m, columns, k,
                           w.two_of_four ? SparseWeights::kTwoOfFour : SparseWeights::kBitmap);
  }
  return skinny_supports(dtype_, m, columns, k, coded(weight) ? weight : dtype_);
}

PlanBuilder::Quantised PlanBuilder::quantised(PhaseKind kind, const PlanTensor& x, DType dtype,
                                              int64_t group) {
  const OpRange& section = plan_.sections[static_cast<size_t>(section_)];
  for (size_t op = static_cast<size_t>(section.first); op < plan_.ops.size(); ++op) {
    const auto* done = std::get_if<QuantiseOp>(&plan_.ops[op].body);
    if (done != nullptr && done->x.buffer == x.buffer && done->x.offset == x.offset &&
        done->x.cols == x.cols && done->group == group &&
        plan_.buffers.at(static_cast<size_t>(done->codes.buffer)).dtype == dtype)
      return {.codes = done->codes, .scales = done->scales};
  }
  const std::string name = phase_path(phase(kind));
  const Quantised q{.codes = scratch(name + ".codes", dtype, x.rows, x.cols),
                    .scales = scratch(name + ".scales", DType::kF32, x.cols / group, x.rows)};
  add(kind, QuantiseOp{.x = x, .codes = q.codes, .scales = q.scales, .group = group});
  return q;
}

int64_t PlanBuilder::vocabulary_share() const {
  return ceil_div(config().vocab, plan_.slice.degree);
}

std::optional<RankBest> PlanBuilder::rank_best(int64_t rows) {
  if (!split()) return std::nullopt;
  return RankBest{.candidates = scratch("head.best", DType::kI32, 2, rows), .first_id = vocabulary_.first};
}

void PlanBuilder::pick(const RankBest& best, const TokenState& token) {
  const PlanTensor all = gathered(best.candidates, "head.bests");
  add(PhaseKind::kSelect, PickOp{.candidates = all, .state = token});
}

PlanTensor PlanBuilder::gathered(const PlanTensor& mine, std::string_view name) {
  const DType dtype = plan_.buffers.at(static_cast<size_t>(mine.buffer)).dtype;
  const PlanTensor all = scratch(name, dtype, mine.rows * plan_.slice.degree, mine.cols);
  add(PhaseKind::kComm, CommOp{.kind = CommKind::kAllGather, .x = mine, .y = all});
  return all;
}

RankChoices PlanBuilder::rank_choices(const PlanTensor& logits, const TensorView& bias,
                                      const TokenState& token, const PlanTensor& rules,
                                      const PlanTensor& running_scores, int64_t count) {
  const PlanTensor sums = scratch("select.sums", DType::kF32, logits.rows, 2);
  add(PhaseKind::kSelect, RowSumsOp{.logits = logits, .bias = bias, .sums = sums});
  const PlanTensor all_sums = gathered(sums, "select.all_sums");
  const PlanTensor mine = scratch("select.candidates", DType::kI32, logits.rows, 3 * count);
  add(PhaseKind::kSelect, CandidatesOp{.logits = logits,
                                       .bias = bias,
                                       .sums = all_sums,
                                       .first_id = vocabulary_.first,
                                       .rules = rules,
                                       .tokens = token.tokens,
                                       .position = token.position,
                                       .finished = token.finished,
                                       .running_scores = running_scores,
                                       .candidates = mine});
  return {.sums = all_sums, .candidates = gathered(mine, "select.all_candidates")};
}

void PlanBuilder::head(const Stream& x, const DenseWeight& padded, const TokenState& token,
                       const PlanTensor& ancestry) {
  const int64_t rows = x.rows.rows;
  const int64_t vocab = vocabulary_.count;
  DenseWeight weight = padded;  // the last rank's lacks some ids
  weight.weight.rows = vocab;
  if (!weight.scales.empty()) weight.scales.rows = vocab;
  if (!weight.bias.empty()) weight.bias.cols = vocab;
  const int64_t k = weight.weight.cols;
  const double scale = config().head_scale;
  const bool own = skinny(PhaseKind::kHead, rows, vocab, weight);
  if (!request_.generation && own) {
    const bool fused = fuses_norm(x, weight);
    const ProductInput in =
        fused ? ProductInput{.x = x.rows}
              : product_input(x, {.kind = PhaseKind::kHead, .weight = weight}, own, nullptr);
    add(PhaseKind::kHead, HeadOp{.x = in.x,
                                 .x_scales = in.scales,
                                 .norm = fused ? x.pending : std::nullopt,
                                 .weight = weight,
                                 .scale = scale,
                                 .state = split() ? TokenState{} : token,
                                 .best = rank_best(rows)});
    if (split()) pick(*std::get<HeadOp>(plan_.ops.back().body).best, token);
    return;
  }
  DenseWeight product = weight;
  product.bias = {};
  // The own kernels have no scale; a head of codes is theirs all the same where it needs none.
  const bool skinny_logits = own && coded(weight.weight.dtype) && scale == 1;
  const ProductInput in =
      product_input(x, {.kind = PhaseKind::kHead, .weight = product}, skinny_logits, nullptr);
  const int64_t stride = round_up(vocabulary_share(), kPlanRowElements);
  const PlanTensor logits = scratch(plan_names::kLogits, DType::kF32, rows, stride).columns(0, vocab);
  DenseOp op{.x = in.x, .y = logits, .x_scales = in.scales, .weight = product, .scale = scale};
  if (skinny_logits) {
    op.kernel = DenseKernel::kSkinny;
  } else if (weight.input_dtype == DType::kI8) {
    op.scratch = scratch("head.sums", DType::kI32, rows, stride).columns(0, vocab);
  } else if (!weight.input_dtype && coded(weight.weight.dtype)) {
    op.scratch = scratch("head.weight", dtype_, vocabulary_share(), k).some_rows(0, vocab);
  }
  add(PhaseKind::kHead, op);
  if (request_.generation) {
    choose(logits, weight.bias, token, ancestry);
  } else {
    add(PhaseKind::kSelect, SelectOp{.logits = logits,
                                     .bias = weight.bias,
                                     .state = split() ? TokenState{} : token,
                                     .best = rank_best(rows)});
    if (split()) pick(*std::get<SelectOp>(plan_.ops.back().body).best, token);
  }
}

void PlanBuilder::choose(const PlanTensor& logits, const TensorView& bias, const TokenState& token,
                         const PlanTensor& ancestry) {
  const GenerationConfig& g = *request_.generation;
  const PackedRules packed = pack_rules(g, config().vocab);
  const int64_t rows = logits.rows;
  const PlanTensor rules = state(plan_names::kRules, DType::kI32, 1,
                                 static_cast<int64_t>(packed.table.size()), BufferRole::kInput);
  const auto of_rows = [&](std::string_view name, DType dtype) {
    return state(name, dtype, 1, rows, BufferRole::kInput);
  };
  if (g.beams == 1) {
    ChooseOp op{.logits = logits, .bias = bias, .state = token, .rules = rules};
    if (split()) {
      op.ranks = rank_choices(logits, bias, token, rules, {}, g.sample ? g.top_k : 1);
      op.logits = {};
      op.bias = {};
    }
    if (g.sample) op.keys = state(plan_names::kKeys, DType::kI32, 1, 2 * rows, BufferRole::kInput);
    op.log_probabilities = state(plan_names::kLogProbabilities, DType::kF32, rows, request_.capacity);
    add(PhaseKind::kSelect, op);
    return;
  }
  BeamOp op{.logits = logits,
            .bias = bias,
            .state = token,
            .rules = rules,
            .best = split() ? PlanTensor{}
                            : scratch("beam.best", DType::kI32, rows, int64_t{2} * packed.rules.kept),
            .running_scores = of_rows(plan_names::kRunningScores, DType::kF32),
            .ancestry = ancestry,
            .hypotheses = state(plan_names::kHypotheses, DType::kI32, rows, request_.capacity),
            .lengths = of_rows(plan_names::kLengths, DType::kI32),
            .slots = of_rows(plan_names::kSlots, DType::kI32),
            .scores = of_rows(plan_names::kScores, DType::kF32)};
  if (split()) {
    op.ranks = rank_choices(logits, bias, token, rules, op.running_scores, packed.rules.kept);
    op.logits = {};
    op.bias = {};
  }
  add(PhaseKind::kSelect, op);
}

StepPlan PlanBuilder::finish() {
  const int end = static_cast<int>(plan_.ops.size());
  plan_.sections[static_cast<size_t>(section_)].last = end;
  for (int s = static_cast<int>(section_) + 1; s < kPlanSections; ++s)
    plan_.sections[s] = {.first = end, .last = end};
  find_lifetimes(plan_);
  place_buffers(plan_);
  check_plan(plan_);
  return std::move(plan_);
}

}  // namespace tandem::kernels
