#include "kernels/plan/step_forms.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace tandem::kernels {
namespace {

/// What a form must win of the step as it is. Less is within what two runs of one form differ by, and the own kernels round less.
constexpr double kFormWins = 0.99;
/// What a kind must win of the whole step to be switched.
constexpr double kKindWins = 0.9975;

bool takes_either(const DenseWeight& w) {
  return dtype_bits(w.weight.dtype) >= 16 && !w.sparse() && !w.input_dtype;
}

bool is_product(PhaseKind kind) {
  return kind != PhaseKind::kSelfAttention && kind != PhaseKind::kCrossAttention &&
         kind != PhaseKind::kCrossKv;
}

/// Can the operation be done both ways?
bool two_ways(const PlanOp& op) {
  if (const auto* dense = std::get_if<DenseOp>(&op.body))
    return dense->kernel == DenseKernel::kSkinny && takes_either(dense->weight);
  if (const auto* head = std::get_if<HeadOp>(&op.body)) return takes_either(head->weight);
  return std::holds_alternative<SelfAttentionOp>(op.body) ||
         std::holds_alternative<CrossAttentionOp>(op.body);
}

StepForm with_switched(StepForm form, PhaseKind kind) {
  if (std::erase(form, kind) == 0) form.push_back(kind);
  return form;
}

}  // namespace

StepForm raced_kinds(const StepPlan& plan) {
  StepForm kinds;
  if (plan.has(plan_names::kCrossKv) && plan.config.decoder.layers > 1) kinds.push_back(PhaseKind::kCrossKv);
  const OpRange step = plan.section(PlanSection::kStep);
  for (int i = step.first; i < step.last; ++i) {
    const PlanOp& op = plan.ops[static_cast<size_t>(i)];
    if (two_ways(op) && std::ranges::find(kinds, op.phase.kind) == kinds.end())
      kinds.push_back(op.phase.kind);
  }
  return kinds;
}

std::string step_text(const PlanRequest& request) {
  const ModelConfig& c = request.config;
  return fmt::format("rows {} src {} tokens {} tgt {} layers {} d {} heads {} x {} ff {}{} vocab {} {} {} {}",
                     request.rows(), request.max_source, request.source_tokens, request.capacity,
                     c.decoder.layers, c.d_model, c.decoder.heads, c.head_dim, c.decoder.d_ff,
                     c.gated ? " gated" : "", c.vocab, c.placement == NormPlacement::kPre ? "pre" : "post",
                     precision_name(request.precision), dtype_name(kv_dtype(request.precision, request.kv)));
}

StepForms race_forms(const StepForm& kinds, const TimeForms& time) {
  if (kinds.empty()) return {};
  StepForm library;
  std::ranges::copy_if(kinds, std::back_inserter(library), is_product);
  const std::vector<StepForm> starts =
      library.empty() ? std::vector<StepForm>{{}} : std::vector<StepForm>{{}, library};
  std::vector<StepForm> ends = starts;
  for (const PhaseKind kind : kinds) {
    std::vector<StepForm> pairs;
    for (const StepForm& start : starts) {
      pairs.push_back(start);
      pairs.push_back(with_switched(start, kind));
    }
    const std::vector<double> us = time(pairs);
    for (size_t i = 0; i < starts.size(); ++i) {
      if (us[2 * i + 1] < kKindWins * us[2 * i]) ends[i] = with_switched(ends[i], kind);
    }
  }
  std::vector<StepForm> last = starts;
  for (const StepForm& end : ends) {
    if (std::ranges::find(last, end) == last.end()) last.push_back(end);
  }
  const std::vector<double> us = time(last);
  const auto best = static_cast<size_t>(std::ranges::min_element(us) - us.begin());
  const size_t taken = us[best] < kFormWins * us[0] ? best : 0;
  return {.form = last[taken], .us = us[taken], .own_us = us[0], .library_us = us[starts.size() - 1]};
}

}  // namespace tandem::kernels
