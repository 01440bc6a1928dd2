#include "kernels/plan/kernel_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/error.h"
#include "kernels/decoding/split.h"

namespace tandem::kernels {
namespace {

using Types = std::vector<DType>;
const Types kFloats = {DType::kF32, DType::kF16, DType::kBF16};
const Types kFloat = {DType::kF32};
const Types kCodes = {DType::kF8, DType::kI8};
const Types kMatrices = {DType::kF32, DType::kF16, DType::kBF16, DType::kF8, DType::kI8, DType::kI4};

/// `type`, or the fp32 of a residual stream that is kept wider than it.
Types or_wide(DType type) {
  return type == DType::kF32 ? Types{type} : Types{type, DType::kF32};
}

/// The rules, an operation each.
class KernelCheck {
 public:
  KernelCheck(const StepPlan& plan, int op) : plan_(plan), op_(op) {}

  void operator()(const EmbedOp& o) const {
    const DType table = o.table.dtype;
    require("table", o.table, kFloats);
    require("learned", o.learned, or_wide(table));
    require("sinusoids", o.sinusoids, {DType::kF32});
    require("x", o.x, or_wide(table));
  }
  void operator()(const NormOp& o) const {
    const DType gamma = o.weight.gamma.dtype;
    require("norm.gamma", o.weight.gamma, kFloats);
    require("norm.beta", o.weight.beta, {gamma});
    require("x", o.x, or_wide(gamma));
    require("residual", o.residual, or_wide(gamma));
    require("sum", o.sum, o.residual.empty() ? or_wide(gamma) : Types{type(o.residual)});
    require("y", o.y, {gamma});
    require("codes", o.codes, kCodes);
    require(!o.y.empty() || !o.codes.empty(), "it needs `y` or `codes`");
    require(o.codes.empty() == o.scales.empty(), "`codes` go with `scales`");
    require("scales", o.scales, kFloat);
  }
  void operator()(const CommOp& o) const {
    if (!o.norm) return;
    require(o.kind == CommKind::kAllReduce, "a norm goes with sums");
    (*this)(*o.norm);
  }
  void operator()(const PickOp& o) const { require("candidates", o.candidates, {DType::kI32}); }
  void operator()(const DenseOp& o) const {
    const DType type_of_rows = matrix(o.weight);
    if (o.kernel == DenseKernel::kStructured) {
      require(o.weight.two_of_four && o.scratch.empty(), "structured products have a 2:4 matrix as it is");
      require("weight", o.weight.weight, {DType::kF16, DType::kBF16});
      require("y", o.y, {type_of_rows});
      require(!o.activation || *o.activation == Activation::kRelu,
              "structured products have no activation but relu");
    }
    if (o.kernel == DenseKernel::kTiled) return tiled(o, type_of_rows);
    if (o.kernel != DenseKernel::kSkinny) return library(o, type_of_rows);
    require(o.scale == 1, "the own products have no scale");
    require(o.scratch.empty(), "`scratch` is the library's");
    own_rows(o.x, o.x_scales, o.norm, o.weight);
    require(!o.weight.sparse() || (o.weight.scales.empty() && type_of_rows == DType::kBF16),
            "the own products of a sparse matrix are of bf16");
    require("y", o.y, or_wide(type_of_rows));
    require("residual", o.residual, or_wide(type_of_rows));
    require("norm_out", o.norm_out, {type_of_rows});
    require("bias", o.weight.bias, {type_of_rows});
    statistics(o);
  }
  void operator()(const ActivationOp& o) const {
    require("x", o.x, kFloats);
    require("y", o.y, {type(o.x)});
    require("bias", o.bias, {type(o.x)});
  }
  void operator()(const EncoderAttentionOp& o) const {
    require("q", o.q, kFloats);
    for (const auto& [name, t] : {std::pair{"k", o.k}, {"v", o.v}, {"out", o.out}})
      require(name, t, {type(o.q)});
    require("bias.table", o.bias.table, kFloats);
  }
  void operator()(const SelfAttentionOp& o) const {
    require("q", o.q, kFloats);
    for (const auto& [name, t] : {std::pair{"k", o.k}, {"v", o.v}, {"out", o.out}})
      require(name, t, {type(o.q)});
    keys_values({"k_cache", o.k_cache, "k_scales", o.k_scales}, o.q);
    keys_values({"v_cache", o.v_cache, "v_scales", o.v_scales}, o.q);
    require("bias.table", o.bias.table, kFloats);
  }
  void operator()(const CrossAttentionOp& o) const {
    require("q", o.q, kFloats);
    require("out", o.out, {type(o.q)});
    keys_values({"k", o.k, "k_scales", o.k_scales}, o.q);
    keys_values({"v", o.v, "v_scales", o.v_scales}, o.q);
  }
  void operator()(const HeadOp& o) const {
    const DType type_of_rows = matrix(o.weight);
    own_rows(o.x, o.x_scales, o.norm, o.weight);
    require("bias", o.weight.bias, {type_of_rows});
  }
  void operator()(const QuantiseOp& o) const {
    require("x", o.x, kFloats);
    require("codes", o.codes, kCodes);
    require("scales", o.scales, kFloat);
    require(o.group > 0 && o.x.cols == o.group * o.scales.rows,
            "`group` must divide the columns into the scales");
  }
  void operator()(const SelectOp& o) const { logits(o.logits, o.bias); }
  void operator()(const ChooseOp& o) const {
    logits(o.logits, o.bias);
    ranks(o.ranks);
    if (o.ranks.candidates.empty()) return;
    const int64_t all = o.ranks.candidates.cols / kCandidateInts * plan_.slice.degree;
    require(all <= kListCapacity,
            fmt::format("a row has {} candidates of all ranks, {} is allowed", all, kListCapacity));
  }
  void operator()(const BeamOp& o) const {
    logits(o.logits, o.bias);
    ranks(o.ranks);
  }
  void operator()(const RowSumsOp& o) const {
    logits(o.logits, o.bias);
    require("sums", o.sums, kFloat);
  }
  void operator()(const CandidatesOp& o) const {
    logits(o.logits, o.bias);
    ranks({.sums = o.sums, .candidates = o.candidates});
  }

 private:
  DType type(const PlanTensor& t) const { return plan_.buffers.at(t.buffer).dtype; }

  void require(bool ok, std::string_view what) const {
    if (!ok) throw UsageError(fmt::format("plan: {}: {}", op_text(plan_, op_), what));
  }
  void require(std::string_view name, const PlanTensor& t, const Types& allowed) const {
    if (!t.empty()) require(name, type(t), allowed);
  }
  void require(std::string_view name, const TensorView& t, const Types& allowed) const {
    if (!t.empty()) require(name, t.dtype, allowed);
  }
  void require(std::string_view name, DType got, const Types& allowed) const {
    if (std::ranges::count(allowed, got) > 0) return;
    std::string names;
    for (const DType t : allowed) names += fmt::format("{}{}", names.empty() ? "" : ", ", dtype_name(t));
    throw UsageError(
        fmt::format("plan: {}: '{}' is {}; its kernels take, beside the operation's other types: {}",
                    op_text(plan_, op_), name, dtype_name(got), names));
  }
  /// The type of activations that go with a matrix. One of codes goes with bf16.
  DType matrix(const DenseWeight& w) const {
    require("weight", w.weight, kMatrices);
    const DType stored = w.weight.dtype;
    if (std::ranges::count(kFloats, stored) > 0) {
      require(!w.input_dtype, "rows are quantised for a matrix of codes only");
      return stored;
    }
    require(!w.scales.empty(), "a matrix of codes needs its scales");
    require("scales", w.scales, stored == DType::kI4 ? Types{DType::kBF16} : kFloat);
    require(!w.input_dtype || *w.input_dtype == stored, "rows are quantised to the type of the matrix");
    return DType::kBF16;
  }
  /// Norms by statistics are a matter of the wide products of bf16.
  void statistics(const DenseOp& o) const {
    if (!o.uses_statistics()) return;
    require(statistics_problem(o, plan_.config.norm).empty(), statistics_problem(o, plan_.config.norm));
    require("weight", o.weight.weight, {DType::kBF16});
    require(!o.weight.sparse(), "the products with statistics are of dense matrices");
    require("scaled", o.scaled, {DType::kBF16});
    if (!o.x_stats.empty()) require("x", o.x, {DType::kBF16});
    for (const auto& [name, t] : {std::pair{"stats", o.stats},
                                  {"x_stats", o.x_stats},
                                  {"norm_sums", o.norm_sums},
                                  {"residual_stats", o.residual_stats}})
      require(name, t, kFloat);
    for (const PlanWeight& w : weights_of({.phase = {}, .body = o}))
      require(w.name, w.tensor, {DType::kBF16});
  }
  void tiled(const DenseOp& o, DType type_of_rows) const {
    require(!o.norm && o.norm_out.empty() && o.x_scales.empty() && o.scratch.empty() && o.scale == 1 &&
                !o.weight.sparse() && !o.uses_statistics(),
            "the tiled products have no norm, codes, scale or statistics");
    require(!o.gated || o.residual.empty(), "the tiled products that are gated have no residual");
    require("weight", o.weight.weight, {DType::kF16, DType::kBF16});
    for (const auto& [name, t] : {std::pair{"x", o.x}, {"y", o.y}, {"residual", o.residual}})
      require(name, t, {type_of_rows});
    require("bias", o.weight.bias, {type_of_rows});
  }
  void library(const DenseOp& o, DType type_of_rows) const {
    require(!o.uses_statistics(), "the library's products have no statistics");
    require(!o.norm && o.norm_out.empty(), "the library's products have no norm");
    const std::optional<DType> codes = o.weight.input_dtype;
    require(codes == DType::kI8 || !o.gated, "the library's products have no gate");
    require("x", o.x, {codes ? *codes : type_of_rows});
    require(codes.has_value() != o.x_scales.empty(), "codes of rows go with `x_scales`");
    require("x_scales", o.x_scales, kFloat);
    require("y", o.y, or_wide(type_of_rows));
    if (codes == DType::kI8) {  // sums, and a pass of our own
      require(!o.scratch.empty(), "sums of integers need `scratch`");
      require("scratch", o.scratch, {DType::kI32});
      require("residual", o.residual, or_wide(type_of_rows));
      require("bias", o.weight.bias, {type_of_rows});
      return;
    }
    require(!codes || !o.weight.sparse(), "codes are multiplied with a dense matrix");
    const bool made = !codes && (o.weight.weight.dtype != type_of_rows || o.weight.sparse()) &&
                      o.kernel != DenseKernel::kStructured;
    require(made != o.scratch.empty(),
            "`scratch` goes with a matrix of codes or a sparse one, and rows that are no codes");
    require("scratch", o.scratch, {type_of_rows});
    require("residual", o.residual, {type(o.y)});
    require("bias", o.weight.bias, {type(o.y)});
  }
  /// The own products take fp32 rows through their norm only.
  void own_rows(const PlanTensor& x, const PlanTensor& x_scales, const std::optional<NormWeight>& norm,
                const DenseWeight& w) const {
    const DType dtype = matrix(w);
    const bool codes = !x_scales.empty();
    require(codes == (w.input_dtype && x.rows > 1), "codes of several rows go with `x_scales`");
    require(!codes || !norm, "codes are normalised already");
    require("x", x, codes ? Types{*w.input_dtype} : norm ? or_wide(dtype) : Types{dtype});
    require("x_scales", x_scales, kFloat);
    if (!norm) return;
    require("norm.gamma", norm->gamma, {dtype});
    require("norm.beta", norm->beta, {dtype});
  }
  struct KeysValues {
    std::string_view name;
    const PlanTensor& rows;
    std::string_view scales_name;
    const PlanTensor& scales;
  };
  void keys_values(const KeysValues& kv, const PlanTensor& q) const {
    require(kv.name, kv.rows, {type(q), DType::kF8, DType::kI8});
    const bool codes = dtype_bits(type(kv.rows)) == 8;
    require(codes != kv.scales.empty(), "keys and values in 8 bits go with their scales");
    require(kv.scales_name, kv.scales, kFloat);
    require(!codes || type(q) == DType::kBF16, "keys and values in 8 bits go with bf16");
  }
  void ranks(const RankChoices& r) const {
    require("sums", r.sums, kFloat);
    require("candidates", r.candidates, {DType::kI32});
    require(r.candidates.cols % kCandidateInts == 0 && r.candidates.stride == r.candidates.cols &&
                r.sums.stride == r.sums.cols,
            "candidates are three words each, rows without gaps");
  }
  void logits(const PlanTensor& logits, const TensorView& bias) const {
    require("logits", logits, {DType::kF32});
    require("bias", bias, kFloats);
  }

  const StepPlan& plan_;
  int op_;
};

}  // namespace

void check_kernels(const StepPlan& plan) {
  for (int op = 0; op < static_cast<int>(plan.ops.size()); ++op)
    std::visit(KernelCheck(plan, op), plan.ops[op].body);
}

}  // namespace tandem::kernels
