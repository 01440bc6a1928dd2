#include "harness/model/generation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/model/config.h"

namespace tandem {
namespace {

using nlohmann::json;

[[noreturn]] void refuse(std::string_view field, const json& got, std::string_view allowed) {
  throw UsageError(fmt::format("generation: {}: {} is not {}", field, shown(got), allowed));
}

constexpr int kMaxLength = 1 << 22;

// Where fields come from: the first object that has a value, null being none.
class Fields {
 public:
  Fields(const json& first, const json& config, int vocab) : first_(first), config_(config), vocab_(vocab) {}

  const json* find(const char* key) const { return value_of(first_.is_object() ? first_ : config_, key); }
  const json* find_either(const char* key) const {
    if (const json* found = value_of(first_, key)) return found;
    return value_of(config_, key);
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
    if (!j->is_number_integer() || std::abs(j->get<double>()) > kMaxLength) refuse(key, *j, "an integer");
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
  static const json* value_of(const json& object, const char* key) {
    if (!object.is_object()) return nullptr;
    const auto found = object.find(key);
    return found == object.end() || found->is_null() ? nullptr : &*found;
  }

  const json& first_;
  const json& config_;
  int vocab_;
};

std::vector<std::string> unsupported_fields(const Fields& f) {
  struct Neutral {
    const char* key;
    json value;
  };
  static const Neutral kFields[] = {{"num_beam_groups", 1},
                                    {"diversity_penalty", 0.0},
                                    {"penalty_alpha", 0.0},
                                    {"encoder_no_repeat_ngram_size", 0},
                                    {"encoder_repetition_penalty", 1.0},
                                    {"min_p", 0.0},
                                    {"top_h", 0.0},
                                    {"typical_p", 1.0},
                                    {"epsilon_cutoff", 0.0},
                                    {"eta_cutoff", 0.0},
                                    {"guidance_scale", 1.0},
                                    {"exponential_decay_length_penalty", nullptr},
                                    {"sequence_bias", nullptr},
                                    {"constraints", nullptr},
                                    {"force_words_ids", nullptr},
                                    {"forced_decoder_ids", nullptr},
                                    {"remove_invalid_values", false},
                                    {"stop_strings", nullptr},
                                    {"max_time", nullptr},
                                    {"watermarking_config", nullptr},
                                    {"dola_layers", nullptr},
                                    {"prompt_lookup_num_tokens", nullptr}};
  std::vector<std::string> found;
  for (const Neutral& n : kFields) {
    const json* j = f.find(n.key);
    if (j != nullptr && *j != n.value) found.emplace_back(n.key);
  }
  return found;
}

void read_lengths(const Fields& f, GenerationConfig& g) {
  f.integer("max_length", g.max_length);
  f.integer("min_length", g.min_length);
  // The newer fields count generated tokens and win over the older ones; one token is the decoder's start.
  int added = -1;
  f.integer("max_new_tokens", added);
  if (added >= 0) g.max_length = added + 1;
  added = -1;
  f.integer("min_new_tokens", added);
  if (added >= 0) g.min_length = added + 1;
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

GenerationConfig read_generation(const json& generation, const json& config, int vocab, bool pad_start) {
  if (!generation.is_null() && !generation.is_object()) refuse("generation_config", generation, "an object");
  const Fields f(generation, config, vocab);
  GenerationConfig g;

  const json* pad = f.find_either("pad_token_id");
  const json* start = f.find_either("decoder_start_token_id");
  if (start == nullptr) start = f.find_either("bos_token_id");
  if (start == nullptr && pad_start) start = pad;
  if (start == nullptr) {
    throw UsageError("generation: decoder_start_token_id: neither file has one, nor a bos_token_id");
  }
  g.decoder_start_id = f.id("decoder_start_token_id", *start);
  g.eos_ids = f.ids("eos_token_id", f.find_either("eos_token_id"));
  if (g.eos_ids.empty()) throw UsageError("generation: eos_token_id: neither file has one");
  g.pad_id = pad != nullptr ? f.id("pad_token_id", *pad) : g.eos_ids.front();

  read_lengths(f, g);
  if (const json* bos = f.find("forced_bos_token_id")) g.forced_bos_id = f.id("forced_bos_token_id", *bos);
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
  g.unsupported = unsupported_fields(f);
  if (g.sample && g.beams > 1) g.unsupported.emplace_back("do_sample together with num_beams");
  check(g, vocab);
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
  id("decoder_start_token_id", g.decoder_start_id);
  id("pad_token_id", g.pad_id);
  for (const int32_t eos : g.eos_ids) id("eos_token_id", eos);
  if (g.forced_bos_id) id("forced_bos_token_id", *g.forced_bos_id);
  in_range("max_length", g.max_length, 2, kMaxLength);
  in_range("min_length", g.min_length, 0, kMaxLength);
  in_range("num_beams", g.beams, 1, 1024);
  // Beam search looks at (eos ids + 1) * beams continuations of one sequence at its first step.
  const auto kept = std::max<int64_t>(2, 1 + static_cast<int64_t>(g.eos_ids.size())) * g.beams;
  require(g.beams == 1 || kept <= int64_t{vocab} * g.beams, "num_beams", g.beams,
          "few enough for the vocabulary");
  require(std::isfinite(g.length_penalty), "length_penalty", g.length_penalty, "finite");
  in_range("num_return_sequences", g.n_best, 1, g.sample ? 1024 : g.beams);
  require(g.temperature > 0 && std::isfinite(g.temperature), "temperature", g.temperature, "above 0");
  in_range("top_k", g.top_k, 0, kMaxLength);
  require(g.top_p > 0 && g.top_p <= 1, "top_p", g.top_p, "above 0 and at most 1");
  require(g.repetition_penalty > 0 && std::isfinite(g.repetition_penalty), "repetition_penalty",
          g.repetition_penalty, "above 0");
  in_range("no_repeat_ngram_size", g.no_repeat_ngram, 0, kMaxLength);
}

void check_fits(const GenerationConfig& g, const ModelConfig& config, int longest_source) {
  check(g, config.vocab);
  if (!g.unsupported.empty()) {
    throw UsageError(fmt::format("generation: {}: not supported", fmt::join(g.unsupported, ", ")));
  }
  const bool table = config.position != Position::kRelative && config.position != Position::kNone;
  const int longest = std::max(longest_source, g.max_length - 1);
  if (table && longest > config.max_positions) {
    throw UsageError(fmt::format("generation: length {} is beyond the {} positions of {}", longest,
                                 config.max_positions, config.name));
  }
}

}  // namespace tandem
