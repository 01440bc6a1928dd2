#include "kernels/plan/kernel_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/error.h"

namespace tandem::kernels {
namespace {

using Types = std::vector<DType>;
const Types kFloats = {DType::kF32, DType::kF16, DType::kBF16};

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
  }
  void operator()(const DenseOp& o) const {
    const DType weight = o.weight.weight.dtype;
    require("weight", o.weight.weight, kFloats);
    if (o.kernel == DenseKernel::kLibrary) {
      require(!o.norm && o.norm_out.empty() && !o.gated, "the library's products have no norm and no gate");
      require("x", o.x, {weight});
      require("y", o.y, or_wide(weight));
      require("residual", o.residual, {type(o.y)});
      require("bias", o.weight.bias, {type(o.y)});
      return;
    }
    require(o.scale == 1, "the own products have no scale");
    rows_through_norm(o.x, o.norm, weight);
    require("y", o.y, or_wide(weight));
    require("residual", o.residual, or_wide(weight));
    require("norm_out", o.norm_out, {weight});
    require("bias", o.weight.bias, {weight});
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
    for (const auto& [name, t] :
         {std::pair{"k", o.k}, {"v", o.v}, {"k_cache", o.k_cache}, {"v_cache", o.v_cache}, {"out", o.out}})
      require(name, t, {type(o.q)});
    require("bias.table", o.bias.table, kFloats);
  }
  void operator()(const CrossAttentionOp& o) const {
    require("q", o.q, kFloats);
    for (const auto& [name, t] : {std::pair{"k", o.k}, {"v", o.v}, {"out", o.out}})
      require(name, t, {type(o.q)});
  }
  void operator()(const HeadOp& o) const {
    const DType weight = o.weight.weight.dtype;
    require("weight", o.weight.weight, kFloats);
    rows_through_norm(o.x, o.norm, weight);
    require("bias", o.weight.bias, {weight});
  }
  void operator()(const SelectOp& o) const { logits(o.logits, o.bias); }
  void operator()(const ChooseOp& o) const { logits(o.logits, o.bias); }
  void operator()(const BeamOp& o) const { logits(o.logits, o.bias); }

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
  /// The own products take fp32 rows through their norm only.
  void rows_through_norm(const PlanTensor& x, const std::optional<NormWeight>& norm, DType weight) const {
    require("x", x, norm ? or_wide(weight) : Types{weight});
    if (!norm) return;
    require("norm.gamma", norm->gamma, {weight});
    require("norm.beta", norm->beta, {weight});
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
