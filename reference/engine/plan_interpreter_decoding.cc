// The operations that choose tokens by a GenerationConfig, by the reference's own rules, draws and search.
#include <algorithm>
#include <bit>
#include <cmath>
#include <span>

#include "harness/base/random.h"
#include "reference/engine/plan_interpreter.h"
#include "reference/model/logits.h"
#include "reference/model/next_token.h"

namespace tandem::reference {

std::vector<int32_t> PlanInterpreter::tokens_so_far(const PlanTensor& tokens, int64_t row,
                                                    int position) const {
  std::vector<int32_t> all = {plan_.generation.value().decoder_start_id};
  for (int t = 0; t < position; ++t) all.push_back(read_int(tokens, row, t));
  return all;
}

void PlanInterpreter::apply(const ChooseOp& op) {
  const GenerationConfig& g = plan_.generation.value();
  const bool split = op.logits.empty();
  if (!split) logits_ = with_bias(read(op.logits), op.bias);
  const int position = read_int(op.state.position, 0, 0);
  for (int64_t r = 0; r < logits_.rows; ++r) {
    int32_t id = g.pad_id;
    float log_probability = 0;
    if (!finished(op.state.finished, r)) {
      double uniform = 0;
      if (g.sample) {
        const uint64_t key = static_cast<uint32_t>(read_int(op.keys, 0, 2 * r)) |
                             static_cast<uint64_t>(static_cast<uint32_t>(read_int(op.keys, 0, 2 * r + 1)))
                                 << 32;
        uniform = static_cast<double>(random_bits(key, static_cast<uint64_t>(position)) >> 11) * 0x1p-53;
      }
      if (split) {
        // Ids that no rank brought cannot come: they are below a rank's top_k, or its best.
        std::vector<float> scores(static_cast<size_t>(plan_.config.vocab), kNever);
        std::vector<float> logits(scores.size(), kNever);
        for (const RankCandidate& c : rank_candidates(op.ranks, r)) {
          scores[static_cast<size_t>(c.id)] = c.score;
          logits[static_cast<size_t>(c.id)] = c.logit;
        }
        id = choose_token(g, scores, uniform);
        log_probability = log_softmax_of_ranks(op.ranks.sums, r, logits)[static_cast<size_t>(id)];
      } else {
        std::vector<float> scores(logits_.row(r), logits_.row(r) + logits_.cols);
        const std::vector<float> log_probabilities = log_softmax(scores);
        process(g, tokens_so_far(op.state.tokens, r, position), scores);
        id = choose_token(g, scores, uniform);
        log_probability = log_probabilities[static_cast<size_t>(id)];
      }
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
  if (!op.logits.empty()) logits_ = with_bias(read(op.logits), op.bias);
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
  BeamSearch& search = searches_[static_cast<size_t>(source)];
  if (op.logits.empty()) {
    std::vector<Continuation> found;
    for (int b = 0; b < g.beams; ++b) {
      for (const RankCandidate& c : rank_candidates(op.ranks, first + b)) found.push_back({c.score, b, c.id});
    }
    search.advance(std::move(found));
  } else {
    Matrix logits(g.beams, logits_.cols);
    std::copy_n(logits_.row(first), g.beams * logits_.cols, logits.row(0));
    search.advance(logits);
  }

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

// ---- Of a split vocabulary
// -------------------------------------------------------------------------------------------

void PlanInterpreter::apply(const RowSumsOp& op) {
  logits_ = with_bias(read(op.logits), op.bias);
  for (int64_t r = 0; r < logits_.rows; ++r) {
    const std::span<const float> row(logits_.row(r), static_cast<size_t>(logits_.cols));
    const float largest = *std::ranges::max_element(row);
    double sum = 0;
    for (const float v : row) sum += std::exp(static_cast<double>(v) - largest);
    write(op.sums, r, 0, largest);
    write(op.sums, r, 1, static_cast<float>(sum));
  }
}

std::vector<float> PlanInterpreter::log_softmax_of_ranks(const PlanTensor& sums, int64_t row,
                                                         std::span<const float> logits) const {
  const int64_t rows = sums.rows / plan_.slice.degree;
  float largest = kNever;
  for (int rank = 0; rank < plan_.slice.degree; ++rank)
    largest = std::max(largest, read(sums, rank * rows + row, 0));
  double sum = 0;
  for (int rank = 0; rank < plan_.slice.degree; ++rank) {
    const int64_t at = rank * rows + row;
    sum += read(sums, at, 1) * std::exp(static_cast<double>(read(sums, at, 0)) - largest);
  }
  return log_softmax(logits, largest, std::log(sum));
}

void PlanInterpreter::apply(const CandidatesOp& op) {
  const GenerationConfig& g = plan_.generation.value();
  logits_ = with_bias(read(op.logits), op.bias);
  const VocabularyPart part{.first = op.first_id};
  const int position = read_int(op.position, 0, 0);
  const auto count = static_cast<size_t>(op.candidates.cols / 3);
  for (int64_t r = 0; r < logits_.rows; ++r) {
    std::vector<Continuation> all;
    if (!finished(op.finished, r)) {
      const std::span<const float> row(logits_.row(r), static_cast<size_t>(logits_.cols));
      const bool beam = !op.running_scores.empty();
      std::vector<float> scores =
          beam ? log_softmax_of_ranks(op.sums, r, row) : std::vector<float>(row.begin(), row.end());
      process(g, tokens_so_far(op.tokens, r, position), scores, part);
      const float own = beam ? read(op.running_scores, 0, r) : 0.0f;
      for (size_t i = 0; i < scores.size(); ++i)
        all.push_back({beam ? scores[i] + own : scores[i], 0,
                       static_cast<int32_t>(op.first_id) + static_cast<int32_t>(i)});
    }
    const std::vector<Continuation> best = best_continuations(std::move(all), count);
    for (size_t i = 0; i < count; ++i) {
      const auto at = static_cast<int64_t>(3 * i);
      const bool there = i < best.size();
      const Continuation c = there ? best[i] : Continuation{};
      write_int(op.candidates, r, at, std::bit_cast<int32_t>(c.score));
      write_int(op.candidates, r, at + 1, there ? c.token : -1);
      write_int(op.candidates, r, at + 2,
                std::bit_cast<int32_t>(there ? logits_.row(r)[c.token - op.first_id] : 0.0f));
    }
  }
}

std::vector<PlanInterpreter::RankCandidate> PlanInterpreter::rank_candidates(const RankChoices& ranks,
                                                                             int64_t row) const {
  const int64_t rows = ranks.candidates.rows / plan_.slice.degree;
  std::vector<RankCandidate> all;
  for (int rank = 0; rank < plan_.slice.degree; ++rank) {
    const int64_t at = rank * rows + row;
    for (int64_t i = 0; i + 2 < ranks.candidates.cols; i += 3) {
      const int32_t id = read_int(ranks.candidates, at, i + 1);
      if (id < 0) break;
      all.push_back({.score = std::bit_cast<float>(read_int(ranks.candidates, at, i)),
                     .id = id,
                     .logit = std::bit_cast<float>(read_int(ranks.candidates, at, i + 2))});
    }
  }
  return all;
}

void PlanInterpreter::finish_step(const TokenState& state) {
  int32_t running = 0;
  for (int64_t r = 0; r < logits_.rows; ++r) running += finished(state.finished, r) ? 0 : 1;
  write_int(state.running, 0, 0, running);
  write_int(state.position, 0, 0, read_int(state.position, 0, 0) + 1);
}

}  // namespace tandem::reference
