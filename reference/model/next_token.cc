#include "reference/model/next_token.h"

#include <algorithm>

#include "reference/model/sampling.h"
#include "reference/ops/head.h"

namespace tandem::reference {

NextToken next_token(int32_t chosen, bool ended, const EndRule& rule) {
  if (ended) return {.id = rule.pad_id, .ended = true};
  return {.id = chosen, .ended = std::ranges::count(rule.eos_ids, chosen) > 0};
}

std::vector<int32_t> best_ids(MatrixView logits, const VocabularyPart& part) {
  std::vector<int32_t> ids = arg_max(logits);
  if (part.ranks == nullptr) return ids;
  struct Best {
    float logit;
    int32_t id;
  };
  std::vector<Best> mine;
  for (int64_t r = 0; r < logits.rows; ++r) {
    const int32_t id = ids[static_cast<size_t>(r)];
    mine.push_back({logits.row(r)[id], static_cast<int32_t>(part.first) + id});
  }
  const std::vector<Best> all = from_ranks(part.ranks, std::span<const Best>(mine));
  // Ranks' ids rise with their ranks: of equal logits the first rank's id is the lowest.
  Matrix of_ranks(logits.rows, part.ranks->size());
  const auto best = [&](int64_t row, int64_t rank) -> const Best& {
    return all[static_cast<size_t>(rank * logits.rows + row)];
  };
  for (int64_t r = 0; r < of_ranks.rows; ++r) {
    for (int64_t rank = 0; rank < of_ranks.cols; ++rank) of_ranks.row(r)[rank] = best(r, rank).logit;
  }
  const std::vector<int32_t> winners = arg_max(of_ranks);
  for (int64_t r = 0; r < of_ranks.rows; ++r)
    ids[static_cast<size_t>(r)] = best(r, winners[static_cast<size_t>(r)]).id;
  return ids;
}

std::vector<NextToken> greedy_tokens(MatrixView logits, const std::vector<bool>& ended, const EndRule& rule,
                                     const VocabularyPart& part) {
  const std::vector<int32_t> best = best_ids(logits, part);
  std::vector<NextToken> tokens;
  for (size_t r = 0; r < best.size(); ++r) tokens.push_back(next_token(best[r], ended[r], rule));
  return tokens;
}

int32_t choose_token(const GenerationConfig& g, std::span<const float> scores, double uniform,
                     const VocabularyPart& part) {
  if (g.sample) return draw(sampling_distribution(g, scores, part), uniform, part);
  return best_ids({scores.data(), 1, static_cast<int64_t>(scores.size())}, part).front();
}

}  // namespace tandem::reference
