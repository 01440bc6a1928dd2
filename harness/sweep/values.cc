#include "harness/sweep/values.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <iterator>
#include <optional>
#include <vector>

#include "harness/base/axis_text.h"

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
  if (spec.top_k != 0) add(fmt::format("top_k:{}", spec.top_k));
  if (spec.top_p != 1 || text.empty()) add(fmt::format("top_p:{}", spec.top_p));
  if (spec.temperature != 1) add(fmt::format("temperature:{}", spec.temperature));
  if (spec.length_penalty != 1) add(fmt::format("length_penalty:{}", spec.length_penalty));
  if (spec.early_stopping == EarlyStopping::kTrue) add("early_stopping:true");
  if (spec.early_stopping == EarlyStopping::kNever) add("early_stopping:never");
  if (spec.repetition_penalty != 1) add(fmt::format("repetition_penalty:{}", spec.repetition_penalty));
  if (spec.no_repeat_ngram != 0) add(fmt::format("no_repeat_ngram:{}", spec.no_repeat_ngram));
  return text;
}

GenerationConfig with_decode(GenerationConfig g, const DecodeSpec& spec) {
  g.beams = spec.beams;
  g.n_best = std::min(g.n_best, g.beams);
  g.sample = spec.kind == DecodeSpec::Kind::kSample;
  g.top_k = spec.top_k;
  g.top_p = spec.top_p;
  g.temperature = spec.temperature;
  g.length_penalty = spec.length_penalty;
  g.early_stopping = spec.early_stopping;
  g.repetition_penalty = spec.repetition_penalty;
  g.no_repeat_ngram = spec.no_repeat_ngram;
  std::erase(g.unsupported, "do_sample together with num_beams");
  return g;
}

}  // namespace tandem
