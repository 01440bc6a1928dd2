// A mini-batch of token sequences, packed: padding is never stored, computed or moved.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "harness/model/config.h"

namespace tandem {

/// `lengths` axis: "full", "ragged:R" (mean over maximum, 0 < R <= 1), "file:PATH" (one length a line) or "ids:PATH"
/// (one sequence of ids a line, see ids_file.h; the first `batch` lines are taken).
struct LengthsSpec {
  enum class Kind : uint8_t { kFull, kRagged, kFile, kIds } kind = Kind::kFull;
  double ratio = 1.0;
  std::string path;
  bool operator==(const LengthsSpec&) const = default;
};
/// Throws UsageError naming the allowed forms.
LengthsSpec parse_lengths(std::string_view text);
std::string lengths_text(const LengthsSpec& spec);

struct TransformerBatch {
  std::vector<int32_t> lengths;  ///< [batch], each >= 1
  std::vector<int32_t> offsets;  ///< [batch + 1], packed start of each sequence; offsets[batch] = tokens
  std::vector<int32_t> ids;      ///< [tokens], each in [0, vocab)
  int longest = 0;               ///< tokens of the longest sequence

  int size() const { return static_cast<int>(lengths.size()); }
  int64_t tokens() const { return offsets.empty() ? 0 : offsets.back(); }
};

/// Which keys a query may see. Kept as lengths, never as a dense tensor.
struct AttentionMask {
  enum class Kind : uint8_t {
    kPadding,  ///< encoder: every key of the own sequence
    kCausal,   ///< decoder self-attention: keys at or before the query
    kCross,    ///< decoder cross-attention: every key of the own source
  } kind = Kind::kPadding;
  const int32_t* lengths = nullptr;  ///< [batch] number of valid keys

  /// May query position `q` of sequence `b` see key position `k`?
  bool sees(int b, int q, int k) const { return k < lengths[b] && (kind != Kind::kCausal || k <= q); }
};

/// Lengths for `batch` sequences of at most `src`: one equal to src, mean ratio * src, from the seed. Throws
/// UsageError.
std::vector<int32_t> source_lengths(const LengthsSpec& spec, int batch, int src, uint64_t seed);
/// Packs random ids (never pad, eos or decoder start) for the given lengths.
TransformerBatch make_batch(const ModelConfig& config, const std::vector<int32_t>& lengths, uint64_t seed);
/// The batch that the axes describe: make_batch of source_lengths, or the sequences of a file of ids. Throws
/// UsageError, naming the line of a file.
TransformerBatch source_batch(const ModelConfig& config, const LengthsSpec& spec, int batch, int src,
                              uint64_t seed);
/// Packs given sequences; throws UsageError for an id outside the vocabulary or an empty sequence.
TransformerBatch pack(const ModelConfig& config, const std::vector<std::vector<int32_t>>& sequences);

/// T5's bucket of (key position - query position) (Raffel et al. 2020, section 2.1; transformers'
/// T5Attention).
int relative_bucket(int relative_position, bool bidirectional, int buckets, int max_distance);

}  // namespace tandem
