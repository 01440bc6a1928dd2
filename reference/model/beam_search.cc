#include "reference/model/beam_search.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "reference/model/logits.h"

namespace tandem::reference {
namespace {

constexpr float kHopeless = -1e9f;  // transformers' own number; a score at it is no score

/// The `count` best in descending order; of equal scores the earlier first.
std::vector<Beam> best(std::vector<Beam> beams, int count) {
  std::stable_sort(beams.begin(), beams.end(),
                   [](const Beam& a, const Beam& b) { return a.score > b.score; });
  beams.resize(std::min(beams.size(), static_cast<size_t>(count)));
  return beams;
}

/// The `count` best continuations of all running beams by one token.
std::vector<Continuation> continuations(const GenerationConfig& g, const std::vector<Beam>& running,
                                        const Matrix& logits, size_t count, const VocabularyPart& part) {
  std::vector<Continuation> all;
  for (size_t b = 0; b < running.size(); ++b) {
    std::vector<float> scores = log_softmax({logits.row(b), static_cast<size_t>(logits.cols)}, part);
    process(g, running[b].tokens, scores, part);
    for (int64_t t = 0; t < logits.cols; ++t) {
      all.push_back(
          {scores[t] + running[b].score, static_cast<int32_t>(b), static_cast<int32_t>(part.first + t)});
    }
  }
  all = best_continuations(std::move(all), count);
  if (part.ranks == nullptr) return all;
  all.resize(count);
  all = from_ranks(part.ranks, std::span<const Continuation>(all));
  std::erase_if(all, [](const Continuation& c) { return c.beam < 0; });
  return all;
}

/// The beams that continue so.
std::vector<Beam> continued(const GenerationConfig& g, const std::vector<Beam>& running,
                            const std::vector<Continuation>& by) {
  std::vector<Beam> kept;
  for (const Continuation& c : by) {
    Beam beam{.tokens = running[c.beam].tokens, .score = c.score, .parent = c.beam, .finished = false};
    beam.tokens.push_back(c.token);
    beam.finished = std::find(g.eos_ids.begin(), g.eos_ids.end(), c.token) != g.eos_ids.end() ||
                    static_cast<int>(beam.tokens.size()) >= g.max_length;
    kept.push_back(std::move(beam));
  }
  return kept;
}

float penalised(float score, int generated, double length_penalty) {
  return score / static_cast<float>(std::pow(static_cast<double>(generated), length_penalty));
}

/// Can a running beam still become better than the worst finished one? The heuristic of transformers'
/// _check_early_stop_heuristic.
bool can_improve(const GenerationConfig& g, const std::vector<Beam>& running,
                 const std::vector<Beam>& finished, int generated) {
  const bool longest = g.early_stopping == EarlyStopping::kNever && g.length_penalty > 0;
  const float possible =
      penalised(running.front().score, longest ? g.max_length - 1 : generated, g.length_penalty);
  const float worst = finished.back().score;
  // A place that no sequence has taken yet can always be taken.
  return std::any_of(finished.begin(), finished.end(),
                     [&](const Beam& f) { return possible > (f.finished ? worst : kHopeless); });
}

bool all_finished(const std::vector<Beam>& beams) {
  return std::all_of(beams.begin(), beams.end(), [](const Beam& b) { return b.finished; });
}

}  // namespace

std::vector<Continuation> best_continuations(std::vector<Continuation> all, size_t count) {
  const auto better = [](const Continuation& a, const Continuation& b) {
    return a.score != b.score ? a.score > b.score : std::pair(a.beam, a.token) < std::pair(b.beam, b.token);
  };
  count = std::min(count, all.size());
  std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count), all.end(), better);
  all.resize(count);
  return all;
}

BeamSearch::BeamSearch(const GenerationConfig& g)
    : g_(g),
      running_(g.beams, Beam{.tokens = {g.decoder_start_id}, .score = kHopeless}),
      finished_(g.beams, Beam{.tokens = {}, .score = kHopeless}),
      over_(g.max_length <= 1) {
  running_.front().score = 0;  // the others are copies of it: only one may be continued
  for (int b = 0; b < g.beams; ++b) running_[b].parent = b;
}

size_t BeamSearch::kept() const {
  return std::max<size_t>(2, 1 + g_.eos_ids.size()) * static_cast<size_t>(g_.beams);
}

void BeamSearch::advance(const Matrix& logits, const VocabularyPart& part) {
  advance(continuations(g_, running_, logits, kept(), part));
}

void BeamSearch::advance(std::vector<Continuation> found) {
  const std::vector<Beam> next = continued(g_, running_, best_continuations(std::move(found), kept()));

  std::vector<Beam> open = next;
  for (Beam& b : open) b.score += b.finished ? kHopeless : 0;
  running_ = best(std::move(open), g_.beams);

  // Only the best `beams` candidates may finish; the others are there so that enough go on.
  if (!(all_finished(finished_) && g_.early_stopping == EarlyStopping::kTrue)) {
    for (int i = 0; i < g_.beams && i < static_cast<int>(next.size()); ++i) {
      if (!next[i].finished) continue;
      finished_.push_back(next[i]);
      finished_.back().score = penalised(next[i].score, length_, g_.length_penalty);
    }
    finished_ = best(std::move(finished_), g_.beams);
  }
  over_ = !can_improve(g_, running_, finished_, length_) ||
          (all_finished(finished_) && g_.early_stopping == EarlyStopping::kTrue) ||
          ++length_ >= g_.max_length;
}

std::vector<Hypothesis> beam_search(const GenerationConfig& g, const BeamStep& step,
                                    const VocabularyPart& part) {
  BeamSearch search(g);
  while (!search.over()) {
    std::vector<int32_t> parents, ids;
    for (const Beam& b : search.running()) {
      parents.push_back(b.parent);
      ids.push_back(b.tokens.back());
    }
    search.advance(step(parents, ids), part);
  }
  std::vector<Hypothesis> out;
  for (int i = 0; i < g.n_best; ++i) {
    const Beam& b = search.finished()[i];
    out.push_back({.tokens = std::vector<int32_t>(b.tokens.empty() ? b.tokens.begin() : b.tokens.begin() + 1,
                                                  b.tokens.end()),
                   .score = b.score,
                   .log_probabilities = {}});
  }
  return out;
}

}  // namespace tandem::reference
