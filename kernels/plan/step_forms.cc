#include "kernels/plan/step_forms.h"

#include <fmt/format.h>

#include <algorithm>

namespace tandem::kernels {
namespace {

/// What a form must win over own kernels only. Less is within what two runs of one form differ by, and the own kernels round less.
constexpr double kFormWins = 0.99;
/// What a kind must win of the whole step to be switched.
constexpr double kKindWins = 0.9975;

bool takes_either(const DenseWeight& w) {
  return dtype_bits(w.weight.dtype) >= 16 && !w.sparse() && !w.input_dtype;
}

StepForm without(StepForm form, PhaseKind kind) {
  std::erase(form, kind);
  return form;
}

}  // namespace

StepForm raced_kinds(const StepPlan& plan) {
  StepForm kinds;
  const OpRange step = plan.sections[static_cast<size_t>(PlanSection::kStep)];
  for (int i = step.first; i < step.last; ++i) {
    const PlanOp& op = plan.ops[static_cast<size_t>(i)];
    const auto* dense = std::get_if<DenseOp>(&op.body);
    const auto* head = std::get_if<HeadOp>(&op.body);
    const bool raced = dense != nullptr ? dense->kernel == DenseKernel::kSkinny && takes_either(dense->weight)
                                        : head != nullptr && takes_either(head->weight);
    if (raced && std::ranges::find(kinds, op.phase.kind) == kinds.end()) kinds.push_back(op.phase.kind);
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
  StepForm better;          // own kernels, but for these
  StepForm needed = kinds;  // the library, but for what it is slower with
  for (const PhaseKind kind : kinds) {
    const std::vector<double> us = time({{}, {kind}, kinds, without(kinds, kind)});
    if (us[1] < kKindWins * us[0]) better.push_back(kind);
    if (us[3] < kKindWins * us[2]) std::erase(needed, kind);
  }
  std::vector<StepForm> last{{}, kinds};
  for (const StepForm& form : {better, needed}) {
    if (std::ranges::find(last, form) == last.end()) last.push_back(form);
  }
  const std::vector<double> us = time(last);
  const auto best = static_cast<size_t>(std::ranges::min_element(us) - us.begin());
  const size_t taken = us[best] < kFormWins * us[0] ? best : 0;
  return {.library = last[taken], .us = us[taken], .own_us = us[0], .library_us = us[1]};
}

}  // namespace tandem::kernels
