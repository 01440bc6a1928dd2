#include "kernels/decoding/pack_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <span>

#include "harness/base/random.h"
#include "kernels/decoding/beam.h"

namespace tandem::kernels {
namespace {

int kept_continuations(const GenerationConfig& g) {
  // Enough that as many beams go on even if every beam ends in every way it can.
  return std::max(2, 1 + static_cast<int>(g.eos_ids.size())) * g.beams;
}

}  // namespace

PackedRules pack_rules(const GenerationConfig& g, int vocab) {
  PackedRules packed;
  const auto append = [&](std::span<const int32_t> ids) {
    const RuleList list{static_cast<int>(packed.table.size()), static_cast<int>(ids.size())};
    packed.table.insert(packed.table.end(), ids.begin(), ids.end());
    return list;
  };
  DecodingRules& r = packed.rules;
  r.vocab = vocab;
  r.start_id = g.decoder_start_id;
  r.pad_id = g.pad_id;
  r.max_length = g.max_length;
  r.min_length = g.min_length;
  r.repetition_penalty = static_cast<float>(g.repetition_penalty);
  r.no_repeat_ngram = g.no_repeat_ngram;
  r.renormalise = g.renormalise && !g.sample;
  r.eos = append(g.eos_ids);
  if (g.forced_bos_id) r.forced_bos = append(std::span(&*g.forced_bos_id, 1));
  r.forced_eos = append(g.forced_eos_ids);
  r.suppressed = append(g.suppressed);
  r.suppressed_at_start = append(g.suppressed_at_start);

  std::vector<int32_t> places;
  for (const std::vector<int32_t>& word : g.bad_words) places.push_back(append(word).at);
  places.push_back(static_cast<int32_t>(packed.table.size()));
  r.bad_words = {append(places).at, static_cast<int>(g.bad_words.size())};

  r.sample = g.sample;
  r.inverse_temperature = static_cast<float>(1 / g.temperature);
  r.top_k = g.top_k;
  r.top_p = static_cast<float>(g.top_p);

  r.beams = g.beams;
  r.kept = kept_continuations(g);
  r.stop_when_full = g.early_stopping == EarlyStopping::kTrue;
  r.look_to_the_end = g.early_stopping == EarlyStopping::kNever && g.length_penalty > 0;
  if (g.beams > 1) {
    std::vector<int32_t> powers;
    for (int n = 0; n <= g.max_length; ++n) {
      powers.push_back(
          std::bit_cast<int32_t>(static_cast<float>(std::pow(static_cast<double>(n), g.length_penalty))));
    }
    r.lengths = append(powers);
  }
  return packed;
}

std::string unsupported_rules(const GenerationConfig& g, int vocab) {
  const int kept = kept_continuations(g);
  if (g.beams > kMaxBeams) return fmt::format("num_beams: at most {} here, not {}", kMaxBeams, g.beams);
  if (g.beams > 1 && kept > kMaxKept) {
    return fmt::format("num_beams: {} beams with {} eos ids look at {} continuations, at most {} here",
                       g.beams, g.eos_ids.size(), kept, kMaxKept);
  }
  if (g.beams > 1 && kept > vocab) {
    return fmt::format("num_beams: {} continuations are more than the vocabulary of {}", kept, vocab);
  }
  if (vocab > kMaxVocab) return fmt::format("vocab: at most {} here, not {}", kMaxVocab, vocab);
  return {};
}

uint64_t sampling_key(uint64_t seed, uint64_t sample) {
  return mix64(stream_key(seed, "sampling") + mix64(sample));
}

}  // namespace tandem::kernels
