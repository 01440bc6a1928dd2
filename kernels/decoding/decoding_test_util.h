// What the tests of the decoding bodies and of their kernels share: numbers, rules and models drawn at random.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "harness/base/random.h"
#include "harness/base/testing/test_seed.h"
#include "harness/model/generation.h"
#include "reference/model/beam_search.h"

namespace tandem::kernels {

struct Draws {
  uint64_t key = mix64(test_seed());
  uint64_t index = 0;
  int below(int n) { return static_cast<int>(uniform_below(key, index++, static_cast<uint32_t>(n))); }
  uint64_t bits() { return random_bits(key, index++); }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  float logit(double spread = 3) {
    return static_cast<float>(spread * centred_sum(key, index++) / kCentredSumStd);
  }
  std::vector<int32_t> ids(int count, int vocab) {
    std::vector<int32_t> out;
    for (int i = 0; i < count; ++i) out.push_back(below(vocab));
    return out;
  }
};

/// Rules drawn at random: each is there in about half of the configurations.
inline GenerationConfig random_rules(Draws& d, int vocab, int max_length) {
  GenerationConfig g;
  const auto some = [&] { return d.below(2) == 0; };
  g.decoder_start_id = d.below(vocab);
  g.pad_id = d.below(vocab);
  g.eos_ids = d.ids(1 + d.below(2), vocab);
  if (g.eos_ids.size() == 2 && g.eos_ids[0] == g.eos_ids[1]) g.eos_ids.pop_back();
  g.max_length = max_length;
  if (some()) g.min_length = 1 + d.below(max_length);
  if (d.below(4) == 0) g.forced_bos_id = d.below(vocab);
  if (d.below(4) == 0) g.forced_eos_ids = g.eos_ids;
  if (some()) g.repetition_penalty = 1 + d.uniform();
  if (some()) g.no_repeat_ngram = 1 + d.below(3);
  for (int w = d.below(5); w > 0; --w) g.bad_words.push_back(d.ids(1 + d.below(3), vocab));
  if (some()) g.suppressed = d.ids(3, vocab);
  if (some()) g.suppressed_at_start = d.ids(3, vocab);
  g.renormalise = some();
  // A token that is forced and suppressed leaves nothing to choose from, and a choice among nothing is anyone's.
  const auto forced = [&](int32_t id) {
    return id == g.forced_bos_id || std::count(g.forced_eos_ids.begin(), g.forced_eos_ids.end(), id) > 0;
  };
  std::erase_if(g.suppressed, forced);
  std::erase_if(g.suppressed_at_start, forced);
  return g;
}

/// The logits that follow a sequence: any function of it does, here one that ends often.
struct Model {
  uint64_t key = 0;
  double spread = 1;
  double end = 0;  ///< added to the eos ids
};
inline std::vector<float> following(const Model& m, const std::vector<int32_t>& sequence,
                                    const GenerationConfig& g, int vocab) {
  uint64_t h = m.key;
  for (const int32_t id : sequence) h = mix64(h + static_cast<uint64_t>(id) + 1);
  std::vector<float> out(static_cast<size_t>(vocab));
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<float>(m.spread * centred_sum(h, i) / kCentredSumStd);
  }
  for (const int32_t id : g.eos_ids) out[static_cast<size_t>(id)] += static_cast<float>(m.end);
  return out;
}

/// The reference's search over such a model.
inline std::vector<reference::Hypothesis> reference_search(const Model& model, const GenerationConfig& g,
                                                           int vocab) {
  std::vector<std::vector<int32_t>> fed(static_cast<size_t>(g.beams));
  return reference::beam_search(g, [&](std::span<const int32_t> parents, std::span<const int32_t> ids) {
    std::vector<std::vector<int32_t>> next;
    reference::Matrix logits(g.beams, vocab);
    for (int b = 0; b < g.beams; ++b) {
      next.push_back(fed[static_cast<size_t>(parents[static_cast<size_t>(b)])]);
      next.back().push_back(ids[static_cast<size_t>(b)]);
      const std::vector<float> row = following(model, next.back(), g, vocab);
      std::copy(row.begin(), row.end(), logits.row(b));
    }
    fed = std::move(next);
    return logits;
  });
}

}  // namespace tandem::kernels
