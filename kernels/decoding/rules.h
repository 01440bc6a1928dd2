// The rules under which a next token is chosen (GenerationConfig), flattened for a kernel, and the marks that they put on the
// vocabulary at one step of one sequence: penalised, banned, or forced.
#pragma once

#include <bit>
#include <cstdint>

#include "harness/base/host_device.h"
#include "kernels/decoding/block.h"

namespace tandem::kernels {

/// Where a list lies in DecodingRules::table.
struct RuleList {
  int at = 0;
  int count = 0;
};

struct DecodingRules {
  int vocab = 0;
  int start_id = 0;
  int pad_id = 0;
  int max_length = 0;  ///< the start included
  int min_length = 0;
  float repetition_penalty = 1;
  int no_repeat_ngram = 0;
  bool renormalise = false;
  RuleList eos = {};
  RuleList forced_bos = {};
  RuleList forced_eos = {};
  RuleList suppressed = {};
  RuleList suppressed_at_start = {};
  RuleList bad_words = {};  ///< count + 1 places in the table, each word's ids up to the next one's
  RuleList lengths = {};    ///< beams: float bits of (generated tokens)^length_penalty, from 0 to max_length
  const int32_t* table = nullptr;

  // What a sampling draw needs.
  bool sample = false;
  float inverse_temperature = 1;
  int top_k = 0;
  float top_p = 1;

  // What beam search needs.
  int beams = 1;
  int kept = 0;                  ///< continuations looked at a source
  bool stop_when_full = false;   ///< early_stopping true
  bool look_to_the_end = false;  ///< early_stopping "never" with a positive length penalty
};

TANDEM_COOPERATIVE inline bool listed(const DecodingRules& rules, const RuleList& list, int32_t id) {
  for (int i = 0; i < list.count; ++i) {
    if (rules.table[list.at + i] == id) return true;
  }
  return false;
}

/// A sequence so far, the decoder's start first.
struct History {
  const int32_t* generated = nullptr;  ///< [length - 1]
  int32_t start_id = 0;
  int length = 1;  ///< the start included
  TANDEM_COOPERATIVE int32_t operator[](int i) const { return i == 0 ? start_id : generated[i - 1]; }
};

/// The largest vocabulary: that of the sums in probability.h.
inline constexpr int kMaxVocab = 1 << 18;

/// Words of a bitmap over the vocabulary.
TANDEM_HD constexpr int mark_words(int vocab) {
  return ceil_div(vocab, 32);
}

/// What the rules say at one step of one sequence.
struct Marks {
  uint32_t* penalised = nullptr;  ///< bitmap in shared memory; read when any_penalised
  uint32_t* banned = nullptr;     ///< likewise
  bool any_penalised = false;
  bool any_banned = false;
  RuleList forced = {};  ///< these only, where not empty
};

/// Does a step of some sequence under these rules need bitmaps? Known to the host too.
TANDEM_HD inline bool needs_marks(const DecodingRules& r) {
  return r.repetition_penalty != 1 || r.no_repeat_ngram > 0 || r.bad_words.count > 0 || r.min_length > 1 ||
         r.suppressed.count > 0 || r.suppressed_at_start.count > 0;
}

template <class Block>
TANDEM_COOPERATIVE void mark(Block& block, uint32_t* bitmap, int32_t id) {
  block.set_bits(bitmap + id / 32, 1u << (id % 32));
}
template <class Block>
TANDEM_COOPERATIVE void mark(Block& block, uint32_t* bitmap, const DecodingRules& r, const RuleList& list) {
  for (int i = block.thread(); i < list.count; i += block.threads())
    mark(block, bitmap, r.table[list.at + i]);
}

/// Tokens that would complete an n-gram that is there already.
template <class Block>
TANDEM_COOPERATIVE void ban_repeated_ngrams(Block& block, uint32_t* banned, const History& h, int n) {
  for (int i = block.thread(); i + n <= h.length; i += block.threads()) {
    bool same = true;
    for (int j = 0; j + 1 < n && same; ++j) same = h[i + j] == h[h.length - n + 1 + j];
    if (same) mark(block, banned, h[i + n - 1]);
  }
}

/// Last ids of the words whose other ids the sequence ends with. A word that is an eos alone is not banned.
template <class Block>
TANDEM_COOPERATIVE void ban_words(Block& block, uint32_t* banned, const DecodingRules& r, const History& h) {
  for (int w = block.thread(); w < r.bad_words.count; w += block.threads()) {
    const int first = r.table[r.bad_words.at + w];
    const int before = r.table[r.bad_words.at + w + 1] - first - 1;
    const int32_t last = r.table[first + before];
    bool same = before <= h.length && !(before == 0 && listed(r, r.eos, last));
    for (int j = 0; j < before && same; ++j) same = h[h.length - before + j] == r.table[first + j];
    if (same) mark(block, banned, last);
  }
}

/// Bitmaps of this step. `bitmaps` is shared memory of 2 * mark_words(vocab) words, or null when !needs_marks().
template <class Block>
TANDEM_COOPERATIVE Marks make_marks(Block& block, const DecodingRules& r, const History& h,
                                    uint32_t* bitmaps) {
  Marks m;
  const bool first = h.length == 1;
  if (r.forced_bos.count > 0 && first) m.forced = r.forced_bos;
  if (r.forced_eos.count > 0 && h.length == r.max_length - 1) m.forced = r.forced_eos;
  if (bitmaps == nullptr) return m;
  const int words = mark_words(r.vocab);
  m.penalised = bitmaps;
  m.banned = bitmaps + words;
  for (int i = block.thread(); i < 2 * words; i += block.threads()) bitmaps[i] = 0;
  block.sync();
  // Everything but suppression is overruled by a forced token.
  if (m.forced.count == 0) {
    m.any_penalised = r.repetition_penalty != 1;
    m.any_banned = r.no_repeat_ngram > 0 || r.bad_words.count > 0 || h.length < r.min_length;
    if (m.any_penalised) {
      for (int i = block.thread(); i < h.length; i += block.threads()) mark(block, m.penalised, h[i]);
    }
    if (r.no_repeat_ngram > 0) ban_repeated_ngrams(block, m.banned, h, r.no_repeat_ngram);
    ban_words(block, m.banned, r, h);
    if (h.length < r.min_length) mark(block, m.banned, r, r.eos);
  }
  const bool at_start = h.length == (r.forced_bos.count > 0 ? 2 : 1) && r.suppressed_at_start.count > 0;
  m.any_banned = m.any_banned || r.suppressed.count > 0 || at_start;
  mark(block, m.banned, r, r.suppressed);
  if (at_start) mark(block, m.banned, r, r.suppressed_at_start);
  block.sync();
  return m;
}

TANDEM_COOPERATIVE inline float never() {
  return -std::bit_cast<float>(0x7f800000u);
}

/// A score after the rules.
TANDEM_COOPERATIVE inline float ruled(const DecodingRules& r, const Marks& m, int32_t id, float score) {
  const uint32_t bit = 1u << (id % 32);
  if (m.forced.count > 0) {
    score = listed(r, m.forced, id) ? 0.0f : never();
  } else if (m.any_penalised && (m.penalised[id / 32] & bit) != 0) {
    score = score < 0 ? score * r.repetition_penalty : score / r.repetition_penalty;
  }
  return m.any_banned && (m.banned[id / 32] & bit) != 0 ? never() : score;
}

}  // namespace tandem::kernels
