#include "reference/model/next_token.h"

#include <algorithm>

#include "reference/model/sampling.h"
#include "reference/ops/head.h"

namespace tandem::reference {

NextToken next_token(int32_t chosen, bool ended, const EndRule& rule) {
  if (ended) return {.id = rule.pad_id, .ended = true};
  return {.id = chosen, .ended = std::ranges::count(rule.eos_ids, chosen) > 0};
}

std::vector<NextToken> greedy_tokens(MatrixView logits, const std::vector<bool>& ended, const EndRule& rule) {
  const std::vector<int32_t> best = arg_max(logits);
  std::vector<NextToken> tokens;
  for (size_t r = 0; r < best.size(); ++r) tokens.push_back(next_token(best[r], ended[r], rule));
  return tokens;
}

int32_t choose_token(const GenerationConfig& g, std::span<const float> scores, double uniform) {
  if (g.sample) return draw(sampling_distribution(g, scores), uniform);
  return arg_max({scores.data(), 1, static_cast<int64_t>(scores.size())}).front();
}

}  // namespace tandem::reference
