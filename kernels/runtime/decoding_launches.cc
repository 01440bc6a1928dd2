// Launches of the operations that choose tokens by a GenerationConfig.
#include "kernels/decoding/pack_rules.h"
#include "kernels/runtime/executor.h"

namespace tandem::kernels {

DecodingRules PlanExecutor::rules(const PlanTensor& table) const {
  return pack_rules(*plan_.generation, plan_.config.vocab).at(at<int32_t>(table));
}

StepLogits PlanExecutor::step_logits(const PlanTensor& logits, const TensorView& bias) const {
  return {.logits = at<float>(logits), .stride = logits.stride, .bias_dtype = bias.dtype, .bias = bias.data};
}

StepState PlanExecutor::step_state(const TokenState& s) const {
  return {.next_ids = at<int32_t>(s.next_ids),
          .tokens = at<int32_t>(s.tokens),
          .capacity = s.tokens.stride,
          .position = at<int32_t>(s.position),
          .finished = at<int32_t>(s.finished),
          .running = at<int32_t>(s.running),
          .arrived = static_cast<int32_t*>(head_workspace_.data())};
}

RankLists PlanExecutor::rank_lists(const RankChoices& ranks) const {
  if (ranks.sums.empty()) return {};
  return {.sums = at<float>(ranks.sums),
          .candidates = at<int32_t>(ranks.candidates),
          .degree = plan_.slice.degree,
          .rows = static_cast<int>(ranks.sums.rows) / plan_.slice.degree,
          .count = static_cast<int>(ranks.candidates.cols) / kCandidateInts};
}

void PlanExecutor::launch(const RowSumsOp& op) {
  launch_row_sums({.rows = static_cast<int>(op.logits.rows),
                   .vocab = static_cast<int>(op.logits.cols),
                   .logits = step_logits(op.logits, op.bias),
                   .sums = at<float>(op.sums),
                   .dependent = dependent_},
                  device_.stream());
}

void PlanExecutor::launch(const CandidatesOp& op) {
  launch_candidates({.rules = rules(op.rules),
                     .rows = static_cast<int>(op.logits.rows),
                     .vocab = static_cast<int>(op.logits.cols),
                     .first_id = static_cast<int>(op.first_id),
                     .logits = step_logits(op.logits, op.bias),
                     .tokens = at<int32_t>(op.tokens),
                     .capacity = op.tokens.stride,
                     .position = at<int32_t>(op.position),
                     .finished = at<int32_t>(op.finished),
                     .running_scores = at<float>(op.running_scores),
                     .ranks = {.sums = at<float>(op.sums),
                               .degree = plan_.slice.degree,
                               .rows = static_cast<int>(op.logits.rows),
                               .count = static_cast<int>(op.candidates.cols) / kCandidateInts},
                     .candidates = at<int32_t>(op.candidates),
                     .dependent = dependent_},
                    device_.stream());
}

void PlanExecutor::launch(const ChooseOp& op) {
  const RankLists ranks = rank_lists(op.ranks);
  launch_choose({.rules = rules(op.rules),
                 .rows = ranks.rows > 0 ? ranks.rows : static_cast<int>(op.logits.rows),
                 .logits = step_logits(op.logits, op.bias),
                 .ranks = ranks,
                 .state = step_state(op.state),
                 .keys = at<uint64_t>(op.keys),
                 .log_probabilities = at<float>(op.log_probabilities),
                 .dependent = dependent_},
                device_.stream());
}

BeamParams PlanExecutor::beam_params(const BeamOp& op) const {
  return {.rules = rules(op.rules),
          .sources = plan_.batch,
          .logits = step_logits(op.logits, op.bias),
          .ranks = rank_lists(op.ranks),
          .state = step_state(op.state),
          .best = at<Continuation>(op.best),
          .running_scores = at<float>(op.running_scores),
          .ancestry = at<int32_t>(op.ancestry),
          .hypotheses = at<int32_t>(op.hypotheses),
          .lengths = at<int32_t>(op.lengths),
          .slots = at<int32_t>(op.slots),
          .scores = at<float>(op.scores),
          .dependent = dependent_};
}

void PlanExecutor::launch(const BeamOp& op) {
  launch_beam(beam_params(op), device_.stream());
}

void PlanExecutor::start_search() {
  for (const PlanOp& op : plan_.ops) {
    if (const auto* beam = std::get_if<BeamOp>(&op.body))
      launch_beam_state(beam_params(*beam), device_.stream());
  }
}

}  // namespace tandem::kernels
