// The values of axis `decode`.
#pragma once

#include <string>
#include <string_view>

#include "harness/model/generation.h"

namespace tandem {

/// `decode` axis: how it starts says which kind it is: "greedy"; "beam:K"; "top_k:K" with ",top_p:P", or "top_p:P". Then
/// come options, each at most once and in the order below: temperature (sampling), length_penalty and early_stopping
/// (beams), repetition_penalty and no_repeat_ngram (all).
struct DecodeSpec {
  enum class Kind : unsigned char { kGreedy, kBeam, kSample } kind = Kind::kGreedy;
  int beams = 1;                                         ///< 2 to 32 for kBeam
  int top_k = 0;                                         ///< 1 to 1024; 0: all
  double top_p = 1;                                      ///< 0 < P <= 1
  double temperature = 1;                                ///< 0 < T <= 100
  double length_penalty = 1;                             ///< 0 to 10
  EarlyStopping early_stopping = EarlyStopping::kFalse;  ///< "true", "false" or "never"
  double repetition_penalty = 1;                         ///< 0 < R <= 10
  int no_repeat_ngram = 0;                               ///< 1 to 64; 0: repeats are allowed

  bool operator==(const DecodeSpec&) const = default;
};
/// Throws UsageError naming the allowed forms.
DecodeSpec parse_decode(std::string_view text);
/// Canonical: options in the order above, those at their default left out.
std::string decode_text(const DecodeSpec& spec);
/// `g` with the strategy and the options of `spec` instead of its own; lengths, bans and forced tokens stay.
GenerationConfig with_decode(GenerationConfig g, const DecodeSpec& spec);

/// How messages and --help state the grammar.
inline constexpr std::string_view kDecodeAllowed =
    "greedy, beam:K[,length_penalty:A][,early_stopping:true|never], top_k:K[,top_p:P][,temperature:T], "
    "top_p:P[,temperature:T]; each then [,repetition_penalty:R][,no_repeat_ngram:N] (K 2 to 32 beams, K 1 to "
    "1024 for "
    "top_k, 0 < P <= 1, 0 < T <= 100, 0 <= A <= 10, 0 < R <= 10, N 1 to 64)";

}  // namespace tandem
