#include "reference/model/logits.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace tandem::reference {

std::vector<float> log_softmax(std::span<const float> row) {
  const float largest = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float v : row) sum += std::exp(static_cast<double>(v) - largest);
  const double log_sum = std::log(sum);
  std::vector<float> out(row.size());
  for (size_t i = 0; i < row.size(); ++i) {
    out[i] = static_cast<float>(static_cast<double>(row[i]) - largest - log_sum);
  }
  return out;
}

void penalise_repetition(std::span<float> scores, std::span<const int32_t> tokens, double penalty) {
  const auto p = static_cast<float>(penalty);
  for (const int32_t t : std::set<int32_t>(tokens.begin(), tokens.end())) {
    scores[t] = scores[t] < 0 ? scores[t] * p : scores[t] / p;
  }
}

void forbid_repeated_ngrams(std::span<float> scores, std::span<const int32_t> tokens, int n) {
  const size_t size = static_cast<size_t>(n);
  if (tokens.size() < size) return;
  const std::span<const int32_t> prefix = tokens.last(size - 1);
  for (size_t i = 0; i + size <= tokens.size(); ++i) {
    if (std::ranges::equal(tokens.subspan(i, size - 1), prefix)) scores[tokens[i + size - 1]] = kNever;
  }
}

void forbid_bad_words(std::span<float> scores, std::span<const int32_t> tokens, const GenerationConfig& g) {
  for (const std::vector<int32_t>& word : g.bad_words) {
    const bool is_eos =
        word.size() == 1 && std::find(g.eos_ids.begin(), g.eos_ids.end(), word[0]) != g.eos_ids.end();
    const size_t before = word.size() - 1;
    if (is_eos || before > tokens.size()) continue;
    if (std::ranges::equal(tokens.last(before), std::span(word).first(before))) scores[word.back()] = kNever;
  }
}

void force(std::span<float> scores, std::span<const int32_t> ids) {
  std::fill(scores.begin(), scores.end(), kNever);
  for (const int32_t id : ids) scores[id] = 0;
}

void process(const GenerationConfig& g, std::span<const int32_t> tokens, std::span<float> scores) {
  const int length = static_cast<int>(tokens.size());
  const auto forbid = [&](const std::vector<int32_t>& ids) {
    for (const int32_t id : ids) scores[id] = kNever;
  };
  if (g.repetition_penalty != 1) penalise_repetition(scores, tokens, g.repetition_penalty);
  if (g.no_repeat_ngram > 0) forbid_repeated_ngrams(scores, tokens, g.no_repeat_ngram);
  forbid_bad_words(scores, tokens, g);
  if (length < g.min_length) forbid(g.eos_ids);
  if (g.forced_bos_id && length == 1) force(scores, std::span(&*g.forced_bos_id, 1));
  if (!g.forced_eos_ids.empty() && length == g.max_length - 1) force(scores, g.forced_eos_ids);
  forbid(g.suppressed);
  if (length == (g.forced_bos_id ? 2 : 1)) forbid(g.suppressed_at_start);
  if (g.renormalise && !g.sample) {
    const std::vector<float> again = log_softmax(scores);
    std::copy(again.begin(), again.end(), scores.begin());
  }
}

}  // namespace tandem::reference
