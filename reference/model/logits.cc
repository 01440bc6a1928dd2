#include "reference/model/logits.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace tandem::reference {
namespace {

/// The score of `id`, or null where another rank has it.
float* find(std::span<float> scores, int32_t id, const VocabularyPart& part) {
  const int64_t at = part.place(id, scores.size());
  return at < 0 ? nullptr : &scores[static_cast<size_t>(at)];
}

void set(std::span<float> scores, int32_t id, float value, const VocabularyPart& part) {
  if (float* score = find(scores, id, part)) *score = value;
}

}  // namespace

std::vector<float> log_softmax(std::span<const float> row, const VocabularyPart& part) {
  const std::vector<float> largest_of = from_ranks(part.ranks, *std::max_element(row.begin(), row.end()));
  const float largest = *std::max_element(largest_of.begin(), largest_of.end());
  double sum = 0;
  for (const float v : row) sum += std::exp(static_cast<double>(v) - largest);
  return log_softmax(row, largest, std::log(sum_of_ranks(part.ranks, sum)));
}

std::vector<float> log_softmax(std::span<const float> row, float largest, double log_sum) {
  std::vector<float> out(row.size());
  for (size_t i = 0; i < row.size(); ++i) {
    out[i] = static_cast<float>(static_cast<double>(row[i]) - largest - log_sum);
  }
  return out;
}

void penalise_repetition(std::span<float> scores, std::span<const int32_t> tokens, double penalty,
                         const VocabularyPart& part) {
  const auto p = static_cast<float>(penalty);
  for (const int32_t t : std::set<int32_t>(tokens.begin(), tokens.end())) {
    if (float* score = find(scores, t, part)) *score = *score < 0 ? *score * p : *score / p;
  }
}

void forbid_repeated_ngrams(std::span<float> scores, std::span<const int32_t> tokens, int n,
                            const VocabularyPart& part) {
  const size_t size = static_cast<size_t>(n);
  if (tokens.size() < size) return;
  const std::span<const int32_t> prefix = tokens.last(size - 1);
  for (size_t i = 0; i + size <= tokens.size(); ++i) {
    if (std::ranges::equal(tokens.subspan(i, size - 1), prefix))
      set(scores, tokens[i + size - 1], kNever, part);
  }
}

void forbid_bad_words(std::span<float> scores, std::span<const int32_t> tokens, const GenerationConfig& g,
                      const VocabularyPart& part) {
  for (const std::vector<int32_t>& word : g.bad_words) {
    const bool is_eos =
        word.size() == 1 && std::find(g.eos_ids.begin(), g.eos_ids.end(), word[0]) != g.eos_ids.end();
    const size_t before = word.size() - 1;
    if (is_eos || before > tokens.size()) continue;
    if (std::ranges::equal(tokens.last(before), std::span(word).first(before)))
      set(scores, word.back(), kNever, part);
  }
}

void force(std::span<float> scores, std::span<const int32_t> ids, const VocabularyPart& part) {
  std::fill(scores.begin(), scores.end(), kNever);
  for (const int32_t id : ids) set(scores, id, 0, part);
}

void process(const GenerationConfig& g, std::span<const int32_t> tokens, std::span<float> scores,
             const VocabularyPart& part) {
  const int length = static_cast<int>(tokens.size());
  const auto forbid = [&](const std::vector<int32_t>& ids) {
    for (const int32_t id : ids) set(scores, id, kNever, part);
  };
  if (g.repetition_penalty != 1) penalise_repetition(scores, tokens, g.repetition_penalty, part);
  if (g.no_repeat_ngram > 0) forbid_repeated_ngrams(scores, tokens, g.no_repeat_ngram, part);
  forbid_bad_words(scores, tokens, g, part);
  if (length < g.min_length) forbid(g.eos_ids);
  if (g.forced_bos_id && length == 1) force(scores, std::span(&*g.forced_bos_id, 1), part);
  if (!g.forced_eos_ids.empty() && length == g.max_length - 1) force(scores, g.forced_eos_ids, part);
  forbid(g.suppressed);
  if (length == (g.forced_bos_id ? 2 : 1)) forbid(g.suppressed_at_start);
  if (g.renormalise && !g.sample) {
    const std::vector<float> again = log_softmax(scores, part);
    std::copy(again.begin(), again.end(), scores.begin());
  }
}

float value_of(std::span<const float> values, int32_t id, const VocabularyPart& part) {
  struct Found {
    int32_t here;
    float value;
  };
  const int64_t at = part.place(id, values.size());
  const Found mine{at < 0 ? 0 : 1, at < 0 ? 0 : values[static_cast<size_t>(at)]};
  for (const Found& f : from_ranks(part.ranks, mine)) {
    if (f.here != 0) return f.value;
  }
  return kNever;  // of no vocabulary
}

}  // namespace tandem::reference
