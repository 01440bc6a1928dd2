// How a checkpoint's tokens are chosen: what generation_config.json says, in Hugging Face's meaning of every field.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace tandem {

struct ModelConfig;

enum class EarlyStopping : uint8_t {
  kFalse,  ///< a source ends when the heuristic at the present length says that no beam can improve
  kTrue,   ///< a source ends as soon as it has as many finished sequences as beams
  kNever,  ///< as kFalse, at the most favourable length
};

inline constexpr int kNoId = -1;

/// A setting that nothing here computes, and the modes in which it would change tokens.
struct UnsupportedRule {
  std::string field;
  enum class Mode : uint8_t { kAny, kGreedy, kBeams, kSampling } mode = Mode::kAny;
  bool operator==(const UnsupportedRule&) const = default;
};

struct GenerationConfig {
  int decoder_start_id = 0;  ///< kNoId: no file names one, so that nothing can be decoded
  int pad_id = 0;
  std::vector<int32_t> eos_ids;  ///< any of them ends a sequence; empty: only max_length does

  int max_length = 20;  ///< tokens of a sequence, the decoder's start included
  int min_length = 0;   ///< no eos before a sequence has this many, the start included
  std::optional<int32_t> forced_bos_id;
  std::vector<int32_t> forced_eos_ids;  ///< the last token where a sequence reaches max_length

  int beams = 1;
  double length_penalty = 1;  ///< scores are divided by (generated tokens)^this
  EarlyStopping early_stopping = EarlyStopping::kFalse;
  int n_best = 1;  ///< sequences returned a source: 1 to beams (1 or more when sampling)

  bool sample = false;
  double temperature = 1;
  int top_k = 50;    ///< 0: all
  double top_p = 1;  ///< keep the smallest set of likeliest tokens with at least this probability
  uint64_t seed = 0;

  double repetition_penalty = 1;
  int no_repeat_ngram = 0;                      ///< 0: repeats are allowed
  std::vector<std::vector<int32_t>> bad_words;  ///< sequences that must not appear
  std::vector<int32_t> suppressed;              ///< tokens that never appear
  std::vector<int32_t> suppressed_at_start;     ///< nor as the first free token
  bool renormalise = false;                     ///< log-softmax once more after all of the above

  /// Settings of the file that would change tokens and that nothing here computes.
  std::vector<UnsupportedRule> unsupported;
  bool operator==(const GenerationConfig&) const = default;
};

/// Reads the one file whose fields count (CHECKPOINTS.md): generation_config.json (`generation`), or config.json (`config`)
/// where the folder has no other and `generation` is null. Throws UsageError naming the field for a wrong type, and for
/// an id outside [0, vocab). Whether values can be decoded with is for check: some do not matter in every mode.
GenerationConfig read_generation(const nlohmann::json& generation, const nlohmann::json& config, int vocab);
/// Throws UsageError naming the field and what is allowed, for every field that matters in the mode of `g`.
void check(const GenerationConfig& g, int vocab);
/// The same, and for settings that nothing computes and lengths beyond the model's position table.
void check_fits(const GenerationConfig& g, const ModelConfig& config, int longest_source);

}  // namespace tandem
