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

void PlanExecutor::launch(const ChooseOp& op) {
  launch_choose({.rules = rules(op.rules),
                 .rows = static_cast<int>(op.logits.rows),
                 .logits = step_logits(op.logits, op.bias),
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
