#include "harness/sweep/values.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <iterator>
#include <optional>
#include <vector>

#include "harness/base/text.h"

namespace tandem {
DecodeSpec parse_decode(std::string_view text) {
  using Kind = DecodeSpec::Kind;
  DecodeSpec spec;
  auto fail = [&] { not_allowed("decode", text, kDecodeAllowed); };
  auto number_in = [&](std::string_view value, double lo, double hi, bool open_lo) {
    const auto v = parse_number<double>(value);
    if (!v || !(open_lo ? *v > lo : *v >= lo) || !(*v <= hi)) fail();
    return *v;
  };
  auto integer_in = [&](std::string_view value, int lo, int hi) {
    const auto v = parse_number<int>(value);
    if (!v || *v < lo || *v > hi) fail();
    return *v;
  };
  auto rule = [&](std::string_view value) {
    if (value == "true") return EarlyStopping::kTrue;
    if (value == "never") return EarlyStopping::kNever;
    if (value != "false") fail();
    return EarlyStopping::kFalse;
  };
  // In the one order that options come in, so that each is given at most once; the first part says which kind it is.
  struct Option {
    std::string_view name;
    bool greedy, beam, sample;  // may follow these
    std::function<void(std::string_view)> set;
  };
  const Option options[] = {
      {"beam", false, true, false, [&](auto v) { spec.beams = integer_in(v, 2, 32); }},
      {"top_k", false, false, true, [&](auto v) { spec.top_k = integer_in(v, 1, 1024); }},
      {"top_p", false, false, true, [&](auto v) { spec.top_p = number_in(v, 0, 1, true); }},
      {"temperature", false, false, true, [&](auto v) { spec.temperature = number_in(v, 0, 100, true); }},
      {"length_penalty", false, true, false,
       [&](auto v) { spec.length_penalty = number_in(v, 0, 10, false); }},
      {"early_stopping", false, true, false, [&](auto v) { spec.early_stopping = rule(v); }},
      {"repetition_penalty", true, true, true,
       [&](auto v) { spec.repetition_penalty = number_in(v, 0, 10, true); }},
      {"no_repeat_ngram", true, true, true, [&](auto v) { spec.no_repeat_ngram = integer_in(v, 1, 64); }},
  };
  constexpr size_t kLastKind = 2;

  const auto parts = split_text(text, ',');
  size_t first = 0;
  if (parts[0] == "greedy") {
    first = 1;
  } else {
    spec.kind = option_value(parts[0], "beam") ? Kind::kBeam : Kind::kSample;
  }
  size_t next = 0;
  for (size_t i = first; i < parts.size(); ++i) {
    size_t which = next;
    while (which < std::size(options) && !option_value(parts[i], options[which].name)) ++which;
    if (which == std::size(options) || (i == 0 && which > kLastKind)) fail();
    const Option& o = options[which];
    if (!(spec.kind == Kind::kGreedy ? o.greedy : spec.kind == Kind::kBeam ? o.beam : o.sample)) fail();
    o.set(*option_value(parts[i], o.name));
    next = which + 1;
  }
  return spec;
}

std::string decode_text(const DecodeSpec& spec) {
  std::string text;
  auto add = [&](const std::string& part) { text += (text.empty() ? "" : ",") + part; };
  if (spec.kind == DecodeSpec::Kind::kGreedy) add("greedy");
  if (spec.kind == DecodeSpec::Kind::kBeam) add(fmt::format("beam:{}", spec.beams));
  auto option = [&](const char* name, const auto& value, auto neutral) {
    if (value && *value != neutral) add(fmt::format("{}:{}", name, *value));
  };
  option("top_k", spec.top_k, 0);
  if (spec.top_p.value_or(1) != 1 || text.empty()) add(fmt::format("top_p:{}", spec.top_p.value_or(1)));
  option("temperature", spec.temperature, 1);
  option("length_penalty", spec.length_penalty, 1);
  if (spec.early_stopping == EarlyStopping::kTrue) add("early_stopping:true");
  if (spec.early_stopping == EarlyStopping::kNever) add("early_stopping:never");
  option("repetition_penalty", spec.repetition_penalty, 1);
  option("no_repeat_ngram", spec.no_repeat_ngram, 0);
  return text;
}

GenerationConfig with_decode(GenerationConfig g, const DecodeSpec& spec) {
  const auto take = [](auto& field, const auto& named) {
    if (named) field = *named;
  };
  g.beams = spec.beams;
  g.sample = spec.kind == DecodeSpec::Kind::kSample;
  take(g.top_k, spec.top_k);
  take(g.top_p, spec.top_p);
  take(g.temperature, spec.temperature);
  take(g.length_penalty, spec.length_penalty);
  take(g.early_stopping, spec.early_stopping);
  take(g.repetition_penalty, spec.repetition_penalty);
  take(g.no_repeat_ngram, spec.no_repeat_ngram);
  return g;
}

GenerationConfig with_flags(GenerationConfig g, const DecodeFlags& flags, int vocab) {
  if (!flags.decode.empty()) g = with_decode(g, parse_decode(flags.decode));
  if (flags.max_new_tokens) g.max_length = *flags.max_new_tokens + 1;
  if (flags.forced_bos) g.forced_bos_id = *flags.forced_bos;
  if (flags.n_best) g.n_best = *flags.n_best;
  g.seed = flags.seed;
  check(g, vocab);
  return g;
}

}  // namespace tandem
