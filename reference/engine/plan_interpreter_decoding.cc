// The operations that choose tokens by a GenerationConfig, by the reference's own rules, draws and search.
#include <algorithm>
#include <span>

#include "harness/base/random.h"
#include "reference/engine/plan_interpreter.h"
#include "reference/model/logits.h"
#include "reference/model/next_token.h"

namespace tandem::reference {

void PlanInterpreter::apply(const ChooseOp& op) {
  const GenerationConfig& g = plan_.generation.value();
  logits_ = with_bias(read(op.logits), op.bias);
  const int position = read_int(op.state.position, 0, 0);
  for (int64_t r = 0; r < logits_.rows; ++r) {
    int32_t id = g.pad_id;
    float log_probability = 0;
    if (!finished(op.state.finished, r)) {
      std::vector<int32_t> tokens = {g.decoder_start_id};
      for (int t = 0; t < position; ++t) tokens.push_back(read_int(op.state.tokens, r, t));
      std::vector<float> scores(logits_.row(r), logits_.row(r) + logits_.cols);
      const std::vector<float> log_probabilities = log_softmax(scores);
      process(g, tokens, scores);
      double uniform = 0;
      if (g.sample) {
        const uint64_t key = static_cast<uint32_t>(read_int(op.keys, 0, 2 * r)) |
                             static_cast<uint64_t>(static_cast<uint32_t>(read_int(op.keys, 0, 2 * r + 1)))
                                 << 32;
        uniform = static_cast<double>(random_bits(key, static_cast<uint64_t>(position)) >> 11) * 0x1p-53;
      }
      id = choose_token(g, scores, uniform);
      log_probability = log_probabilities[static_cast<size_t>(id)];
    }
    const NextToken next =
        next_token(id, finished(op.state.finished, r), {.eos_ids = g.eos_ids, .pad_id = g.pad_id});
    write_int(op.state.next_ids, 0, r, next.id);
    write_int(op.state.tokens, r, position, next.id);
    write(op.log_probabilities, r, position, log_probability);
    write_int(op.state.finished, 0, r, next.ended ? 1 : 0);
  }
  finish_step(op.state);
}

void PlanInterpreter::apply(const BeamOp& op) {
  logits_ = with_bias(read(op.logits), op.bias);
  const int position = read_int(op.state.position, 0, 0);
  if (position == 0) searches_.assign(static_cast<size_t>(plan_.batch), BeamSearch(plan_.generation.value()));
  for (int s = 0; s < plan_.batch; ++s) {
    if (!finished(op.state.finished, int64_t{s} * plan_.rows_per_source)) advance(op, s, position);
  }
  finish_step(op.state);
}

void PlanInterpreter::advance(const BeamOp& op, int source, int position) {
  const GenerationConfig& g = plan_.generation.value();
  const int64_t first = int64_t{source} * g.beams;
  Matrix logits(g.beams, logits_.cols);
  std::copy_n(logits_.row(first), g.beams * logits_.cols, logits.row(0));
  BeamSearch& search = searches_[static_cast<size_t>(source)];
  search.advance(logits);

  std::vector<std::vector<int32_t>> lines(static_cast<size_t>(g.beams));
  for (int b = 0; b < g.beams; ++b) {
    const int32_t parent = search.running()[static_cast<size_t>(b)].parent;
    for (int t = 0; t < position; ++t)
      lines[static_cast<size_t>(b)].push_back(read_int(op.ancestry, first + parent, t));
    lines[static_cast<size_t>(b)].push_back(static_cast<int32_t>(first) + parent);
  }
  for (int b = 0; b < g.beams; ++b) {
    const Beam& running = search.running()[static_cast<size_t>(b)];
    for (int t = 0; t <= position; ++t) {
      write_int(op.ancestry, first + b, t, lines[static_cast<size_t>(b)][static_cast<size_t>(t)]);
      write_int(op.state.tokens, first + b, t, running.tokens[static_cast<size_t>(t) + 1]);
    }
    write(op.running_scores, 0, first + b, running.score);
    write_int(op.state.next_ids, 0, first + b, search.over() ? g.pad_id : running.tokens.back());
    write_int(op.state.finished, 0, first + b, search.over() ? 1 : 0);
    const Beam& done = search.finished()[static_cast<size_t>(b)];
    const auto length = static_cast<int>(done.tokens.size()) - (done.tokens.empty() ? 0 : 1);
    for (int t = 0; t < length; ++t)
      write_int(op.hypotheses, first + b, t, done.tokens[static_cast<size_t>(t) + 1]);
    write_int(op.lengths, 0, first + b, length);
    write_int(op.slots, 0, first + b, b);
    write(op.scores, 0, first + b, done.score);
  }
}

void PlanInterpreter::finish_step(const TokenState& state) {
  int32_t running = 0;
  for (int64_t r = 0; r < logits_.rows; ++r) running += finished(state.finished, r) ? 0 : 1;
  write_int(state.running, 0, 0, running);
  write_int(state.position, 0, 0, read_int(state.position, 0, 0) + 1);
}

}  // namespace tandem::reference
