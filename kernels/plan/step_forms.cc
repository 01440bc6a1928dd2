#include "kernels/plan/step_forms.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <string_view>

namespace tandem::kernels {
namespace {

/// What the library must win of the step as it is.
constexpr double kLibraryWins = 0.98;
/// What a step of the library's first suggestions may lose and still be worth a search.
constexpr double kWorthSearching = 1.15;

bool takes_either(const DenseWeight& w) {
  return dtype_bits(w.weight.dtype) >= 16 && !w.sparse() && !w.input_dtype;
}

/// Can the operation be done both ways?
bool two_ways(const PlanOp& op) {
  if (const auto* dense = std::get_if<DenseOp>(&op.body))
    return dense->kernel == DenseKernel::kSkinny && takes_either(dense->weight);
  const auto* head = std::get_if<HeadOp>(&op.body);
  return head != nullptr && takes_either(head->weight);
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

}  // namespace

StepForm raced_kinds(const StepPlan& plan) {
  StepForm kinds;
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

StepForms race_forms(const StepForm& kinds, const TimeForms& suggested, const TimeForms& searched) {
  if (kinds.empty()) return {};
  const std::vector<StepForm> forms = {{}, kinds};
  std::vector<double> us = suggested(forms);
  if (us[1] < kWorthSearching * us[0]) us = searched(forms);
  const bool library = us[1] < kLibraryWins * us[0];
  return {.form = library ? kinds : StepForm{},
          .us = library ? us[1] : us[0],
          .own_us = us[0],
          .library_us = us[1]};
}

}  // namespace tandem::kernels
