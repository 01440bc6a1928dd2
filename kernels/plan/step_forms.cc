#include "kernels/plan/step_forms.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>
#include <string_view>

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

/// How a product's matrix is stored and what its rows are rounded to.
std::string storage_word(const DenseWeight& w) {
  return fmt::format("{}{}{}", dtype_name(w.weight.dtype),
                     w.two_of_four         ? "-2:4"
                     : w.bitmap != nullptr ? "-bitmap"
                                           : "",
                     w.input_dtype ? fmt::format("-by-{}", dtype_name(*w.input_dtype)) : "");
}

/// Of the products of a decoder's layers together, and then of its head.
std::vector<std::string> storages(const DecoderWeight& decoder) {
  std::set<std::string> of_layers;
  for (const DecoderLayerWeight& layer : decoder.layers) {
    for (const DenseWeight* w :
         {&layer.self.qkv, &layer.self.out, &layer.cross.q, &layer.cross.out, &layer.ffn.up, &layer.ffn.down})
      of_layers.insert(storage_word(*w));
  }
  std::vector<std::string> words(of_layers.begin(), of_layers.end());
  words.push_back(storage_word(decoder.head));
  return words;
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
  std::string text =
      fmt::format("rows {} src {} tokens {} tgt {} layers {} d {} heads {} x {} ff {} vocab {}",
                  request.rows(), request.max_source, request.source_tokens, request.capacity,
                  c.decoder.layers, c.d_model, c.decoder.heads, c.head_dim, c.decoder.d_ff, c.vocab);
  const auto add = [&](std::string_view word) { text.append(" ").append(word); };
  const auto add_if = [&](bool is, std::string_view word) {
    if (is) add(word);
  };
  add(placement_name(c.placement));
  add(norm_name(c.norm));
  add_if(c.embedding_norm, "embedding-norm");
  add_if(c.final_norm, "final-norm");
  add(position_name(c.position));
  if (c.position == Position::kRelative) add(fmt::format("{}", c.relative_max_distance));
  add(activation_name(c.activation));
  add_if(c.gated, "gated");
  add_if(c.bias, "bias");
  add_if(c.head_bias, "head-bias");
  add(fmt::format("{} kv {} weights {}", precision_name(request.precision),
                  dtype_name(kv_dtype(request.precision, request.kv)),
                  fmt::join(storages(request.weights.decoder), ",")));
  add_if(request.structured, "structured");
  const auto& g = request.generation;
  add(!g             ? "greedy"
      : g->beams > 1 ? fmt::format("beams {}", g->beams)
      : g->sample    ? fmt::format("samples {}", g->n_best)
                     : "rules");
  add_if(request.stop_at_eos, "eos");
  return text;
}

std::optional<RacePace> race_pace(size_t kinds, double step_us) {
  constexpr double kGraphUs = 2000;
  constexpr int kMostSteps = 4, kLeastRounds = 3, kMostRounds = 9;
  const int steps = static_cast<int>(std::clamp(std::ceil(kGraphUs / step_us), 1.0, 1.0 * kMostSteps));
  // Two starts and two switched ones a kind, then the starts and their ends.
  const double forms = 4.0 * static_cast<double>(kinds) + 4;
  const double rounds = std::floor(kRaceUs / (forms * steps * step_us)) - 1;
  if (rounds < kLeastRounds) return std::nullopt;
  return RacePace{.steps = steps, .rounds = static_cast<int>(std::min(rounds, 1.0 * kMostRounds))};
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
