// The values of axis `decode`.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "harness/model/generation.h"

namespace tandem {

/// `decode` axis: how it starts says which kind it is: "greedy"; "beam:K"; "top_k:K" with ",top_p:P", or "top_p:P". Then
/// come options, each at most once and in the order below: temperature (sampling), length_penalty and early_stopping
/// (beams), repetition_penalty and no_repeat_ngram (all).
struct DecodeSpec {
  enum class Kind : unsigned char { kGreedy, kBeam, kSample } kind = Kind::kGreedy;
  int beams = 1;  ///< 2 to 32 for kBeam
  // Absent: not named, so that what a checkpoint's files say stays. A case of a suite has the neutral value then.
  std::optional<int> top_k;                     ///< 1 to 1024; neutral: all
  std::optional<double> top_p;                  ///< 0 < P <= 1; neutral: 1
  std::optional<double> temperature;            ///< 0 < T <= 100; neutral: 1
  std::optional<double> length_penalty;         ///< 0 to 10; neutral: 1
  std::optional<EarlyStopping> early_stopping;  ///< "true", "false" or "never"; neutral: false
  std::optional<double> repetition_penalty;     ///< 0 < R <= 10; neutral: 1
  std::optional<int> no_repeat_ngram;           ///< 1 to 64; neutral: repeats are allowed

  bool operator==(const DecodeSpec&) const = default;
};
/// Throws UsageError naming the allowed forms.
DecodeSpec parse_decode(std::string_view text);
/// Canonical for a case: options in the order above, those at their neutral value left out.
std::string decode_text(const DecodeSpec& spec);
/// `g` with the strategy of `spec` and the options that it names; everything else stays.
GenerationConfig with_decode(GenerationConfig g, const DecodeSpec& spec);

/// What a command line says of decoding. Absent and empty: what the checkpoint says.
struct DecodeFlags {
  std::string decode = {};
  std::optional<int> max_new_tokens = {}, forced_bos = {}, n_best = {};
  uint64_t seed = 0;
};
/// `g`, a checkpoint's, with what the flags name; everything else stays. Throws UsageError naming the field whose value
/// does not fit.
GenerationConfig with_flags(GenerationConfig g, const DecodeFlags& flags, int vocab);

/// How messages and --help state the grammar.
inline constexpr std::string_view kDecodeAllowed =
    "greedy, beam:K[,length_penalty:A][,early_stopping:true|false|never], top_k:K[,top_p:P][,temperature:T], "
    "top_p:P[,temperature:T]; each then [,repetition_penalty:R][,no_repeat_ngram:N] (K 2 to 32 beams, K 1 to "
    "1024 for "
    "top_k, 0 < P <= 1, 0 < T <= 100, 0 <= A <= 10, 0 < R <= 10, N 1 to 64)";

}  // namespace tandem
