#include "harness/model/generation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/model/config.h"
#include "harness/model/model_spec.h"

namespace tandem {
namespace {

using nlohmann::json;

[[noreturn]] void refuse(std::string_view field, const json& got, std::string_view allowed) {
  throw UsageError(fmt::format("generation: {}: {} is not {}", field, shown(got), allowed));
}

constexpr int kMaxLength = 1 << 22;

// The fields of the one file that counts, null being none.
class Fields {
 public:
  Fields(const json& file, int vocab) : file_(file), vocab_(vocab) {}

  const json* find(const char* key) const {
    if (!file_.is_object()) return nullptr;
    const auto found = file_.find(key);
    return found == file_.end() || found->is_null() ? nullptr : &*found;
  }

  void number(const char* key, double& out) const {
    const json* j = find(key);
    if (j == nullptr) return;
    if (!j->is_number() || !std::isfinite(j->get<double>())) refuse(key, *j, "a number");
    out = j->get<double>();
  }
  void integer(const char* key, int& out) const {
    const json* j = find(key);
    if (j == nullptr) return;
    if (!j->is_number_integer()) refuse(key, *j, "an integer");
    if (std::abs(j->get<double>()) > kMaxLength)
      refuse(key, *j, fmt::format("between {} and {}", -kMaxLength, kMaxLength));
    out = j->get<int>();
  }
  void flag(const char* key, bool& out) const {
    const json* j = find(key);
    if (j == nullptr) return;
    if (!j->is_boolean()) refuse(key, *j, "true or false");
    out = j->get<bool>();
  }

  int32_t id(const char* key, const json& j) const {
    const bool fits = j.is_number_integer() && j.get<double>() >= 0 && j.get<double>() < vocab_;
    if (!fits) refuse(key, j, fmt::format("an id between 0 and {}", vocab_ - 1));
    return j.get<int32_t>();
  }
  /// One id or a list of them.
  std::vector<int32_t> ids(const char* key, const json* j) const {
    std::vector<int32_t> all;
    if (j == nullptr) return all;
    if (!j->is_array()) return {id(key, *j)};
    for (const json& one : *j) all.push_back(id(key, one));
    return all;
  }

 private:
  const json& file_;
  int vocab_;
};

std::vector<UnsupportedRule> unsupported_rules(const Fields& f) {
  using Mode = UnsupportedRule::Mode;
  struct Neutral {
    const char* key;
    json value;
    Mode mode = Mode::kAny;
  };
  static const Neutral kFields[] = {{"num_beam_groups", 1, Mode::kBeams},
                                    {"diversity_penalty", 0.0, Mode::kBeams},
                                    {"penalty_alpha", 0.0, Mode::kGreedy},
                                    {"encoder_no_repeat_ngram_size", 0},
                                    {"encoder_repetition_penalty", 1.0},
                                    {"min_p", 0.0, Mode::kSampling},
                                    {"top_h", 0.0, Mode::kSampling},
                                    {"typical_p", 1.0, Mode::kSampling},
                                    {"epsilon_cutoff", 0.0, Mode::kSampling},
                                    {"eta_cutoff", 0.0, Mode::kSampling},
                                    {"guidance_scale", 1.0},
                                    {"exponential_decay_length_penalty", nullptr},
                                    {"sequence_bias", nullptr},
                                    {"constraints", nullptr},
                                    {"force_words_ids", nullptr},
                                    {"forced_decoder_ids", nullptr},
                                    {"remove_invalid_values", false},
                                    {"stop_strings", nullptr},
                                    {"token_healing", false},
                                    {"max_time", nullptr},
                                    {"watermarking_config", nullptr},
                                    {"dola_layers", nullptr},
                                    {"assistant_early_exit", nullptr},
                                    {"prompt_lookup_num_tokens", nullptr}};
  std::vector<UnsupportedRule> found;
  for (const Neutral& n : kFields) {
    const json* j = f.find(n.key);
    if (j != nullptr && *j != n.value) found.push_back({n.key, n.mode});
  }
  return found;
}

void read_lengths(const Fields& f, const json& config, GenerationConfig& g) {
  f.integer("min_length", g.min_length);
  if (f.find("max_length") != nullptr) {
    f.integer("max_length", g.max_length);
  } else {
    // 20 new tokens after the decoder's start, or what config.json says that positions serve.
    constexpr int kNewTokens = 20;
    g.max_length = kNewTokens + 1;
    const auto most = config.is_object() ? config.find("max_position_embeddings") : config.end();
    if (config.is_object() && most != config.end() && most->is_number_integer() &&
        most->get<double>() < g.max_length)
      g.max_length = most->get<int>();
  }
  // The newer fields count generated tokens and win over the older ones; one token is the decoder's start.
  for (const auto& [key, length] :
       {std::pair{"max_new_tokens", &g.max_length}, {"min_new_tokens", &g.min_length}}) {
    if (f.find(key) == nullptr) continue;
    f.integer(key, *length);
    ++*length;
  }
}

// What config.json of old checkpoints says in other words.
void take_old_names(const Fields& f, GenerationConfig& g) {
  bool force_bos = false;
  f.flag("force_bos_token_to_be_generated", force_bos);
  if (!force_bos) return;
  const json* bos = f.find("bos_token_id");
  g.forced_bos_id = bos == nullptr ? std::nullopt : std::optional(f.id("bos_token_id", *bos));
}

void read_bad_words(const Fields& f, GenerationConfig& g) {
  const json* words = f.find("bad_words_ids");
  if (words == nullptr) return;
  if (!words->is_array()) refuse("bad_words_ids", *words, "a list of lists of ids");
  for (const json& word : *words) {
    if (!word.is_array() || word.empty()) refuse("bad_words_ids", word, "a list of ids");
    g.bad_words.push_back(f.ids("bad_words_ids", &word));
  }
}

}  // namespace

GenerationConfig read_generation(const json& generation, const json& config, int vocab) {
  if (!generation.is_null() && !generation.is_object()) refuse("generation_config", generation, "an object");
  const Fields f(generation.is_null() ? config : generation, vocab);
  GenerationConfig g;

  const json* start = f.find("decoder_start_token_id");
  if (start == nullptr) start = f.find("bos_token_id");
  g.decoder_start_id = start == nullptr ? kNoId : f.id("decoder_start_token_id", *start);
  g.eos_ids = f.ids("eos_token_id", f.find("eos_token_id"));
  if (const json* pad = f.find("pad_token_id")) {
    g.pad_id = f.id("pad_token_id", *pad);
  } else if (!g.eos_ids.empty()) {
    g.pad_id = g.eos_ids.front();
  }

  read_lengths(f, config, g);
  if (const json* bos = f.find("forced_bos_token_id")) g.forced_bos_id = f.id("forced_bos_token_id", *bos);
  if (generation.is_null()) take_old_names(f, g);
  g.forced_eos_ids = f.ids("forced_eos_token_id", f.find("forced_eos_token_id"));

  f.integer("num_beams", g.beams);
  f.number("length_penalty", g.length_penalty);
  if (const json* early = f.find("early_stopping")) {
    if (*early != "never" && !early->is_boolean())
      refuse("early_stopping", *early, "true, false or \"never\"");
    g.early_stopping = !early->is_boolean() ? EarlyStopping::kNever
                       : early->get<bool>() ? EarlyStopping::kTrue
                                            : EarlyStopping::kFalse;
  }
  f.integer("num_return_sequences", g.n_best);

  f.flag("do_sample", g.sample);
  f.number("temperature", g.temperature);
  f.integer("top_k", g.top_k);
  f.number("top_p", g.top_p);

  f.number("repetition_penalty", g.repetition_penalty);
  f.integer("no_repeat_ngram_size", g.no_repeat_ngram);
  read_bad_words(f, g);
  g.suppressed = f.ids("suppress_tokens", f.find("suppress_tokens"));
  g.suppressed_at_start = f.ids("begin_suppress_tokens", f.find("begin_suppress_tokens"));
  f.flag("renormalize_logits", g.renormalise);
  g.unsupported = unsupported_rules(f);
  // transformers does not load a file that contradicts itself so, whatever is asked of it then.
  if (g.n_best > 1 && (g.beams > 1 ? g.n_best > g.beams : !g.sample))
    g.unsupported.push_back({fmt::format("num_return_sequences {} beside num_beams {}", g.n_best, g.beams)});
  return g;
}

void check(const GenerationConfig& g, int vocab) {
  const auto require = [](bool ok, std::string_view field, const auto& value, std::string_view allowed) {
    if (!ok) throw UsageError(fmt::format("generation: {}: {} is not {}", field, value, allowed));
  };
  const auto in_range = [&](std::string_view field, int value, int lo, int hi) {
    require(value >= lo && value <= hi, field, value, fmt::format("between {} and {}", lo, hi));
  };
  const auto id = [&](std::string_view field, int value) { in_range(field, value, 0, vocab - 1); };
  if (g.decoder_start_id == kNoId) {
    throw UsageError(
        "generation: decoder_start_token_id: missing, and so is bos_token_id, in the file whose fields count "
        "(generation_config.json, or config.json where there is no other)");
  }
  id("decoder_start_token_id", g.decoder_start_id);
  id("pad_token_id", g.pad_id);
  for (const int32_t eos : g.eos_ids) id("eos_token_id", eos);
  if (g.forced_bos_id) id("forced_bos_token_id", *g.forced_bos_id);
  in_range("max_length", g.max_length, 2, kMaxLength);
  in_range("min_length", g.min_length, 0, kMaxLength);
  in_range("num_beams", g.beams, 1, 1024);
  in_range("num_return_sequences", g.n_best, 1, g.sample ? 1024 : g.beams);
  if (g.beams > 1) {
    // Beam search looks at (eos ids + 1) * beams continuations of one sequence at its first step.
    const auto kept = std::max<int64_t>(2, 1 + static_cast<int64_t>(g.eos_ids.size())) * g.beams;
    require(kept <= int64_t{vocab} * g.beams, "num_beams", g.beams, "few enough for the vocabulary");
    require(std::isfinite(g.length_penalty), "length_penalty", g.length_penalty, "finite");
  }
  if (g.sample) {
    require(g.temperature > 0 && std::isfinite(g.temperature), "temperature", g.temperature, "above 0");
    in_range("top_k", g.top_k, 0, kMaxLength);
    require(g.top_p > 0 && g.top_p <= 1, "top_p", g.top_p, "above 0 and at most 1");
  }
  require(g.repetition_penalty > 0 && std::isfinite(g.repetition_penalty), "repetition_penalty",
          g.repetition_penalty, "above 0");
  in_range("no_repeat_ngram_size", g.no_repeat_ngram, 0, kMaxLength);
}

void check_fits(const GenerationConfig& g, const ModelConfig& config, int longest_source) {
  using Mode = UnsupportedRule::Mode;
  check(g, config.vocab);
  const Mode mode = g.sample ? Mode::kSampling : g.beams > 1 ? Mode::kBeams : Mode::kGreedy;
  std::vector<std::string> fields;
  for (const UnsupportedRule& rule : g.unsupported) {
    if (rule.mode == Mode::kAny || rule.mode == mode) fields.push_back(rule.field);
  }
  if (g.sample && g.beams > 1) fields.emplace_back("do_sample together with num_beams");
  if (!fields.empty())
    throw UsageError(fmt::format("generation: {}: not supported", fmt::join(fields, ", ")));
  const int longest = std::max(longest_source, g.max_length - 1);
  if (const auto limit = position_limit(config); limit && longest > *limit) {
    throw UsageError(
        fmt::format("generation: length {} is beyond the {} positions of {}", longest, *limit, config.name));
  }
}

}  // namespace tandem
