#include "harness/sweep/values.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <iterator>
#include <optional>
#include <vector>

#include "harness/base/error.h"

namespace tandem {
namespace {

[[noreturn]] void not_allowed(std::string_view axis, std::string_view value, std::string_view allowed) {
  throw UsageError(fmt::format("{}: '{}' is not allowed; {}", axis, value, allowed));
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

template <typename T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// "name:NUMBER" of one option, or nothing when `part` is another.
std::optional<std::string_view> option(std::string_view part, std::string_view name) {
  if (!part.starts_with(name) || part.size() <= name.size() || part[name.size()] != ':') return std::nullopt;
  return part.substr(name.size() + 1);
}

}  // namespace

SparsitySpec parse_sparsity(std::string_view text) {
  SparsitySpec spec;
  if (text == "dense") return spec;
  auto fail = [&] { not_allowed("sparsity", text, kSparsityAllowed); };
  for (const std::string_view part : split(text, '+')) {
    if (part == "2:4") {
      if (spec.two_of_four) fail();
      spec.two_of_four = true;
      continue;
    }
    double* target = nullptr;
    std::string_view number;
    const std::pair<std::string_view, double*> kinds[] = {{"unstructured", &spec.unstructured},
                                                          {"heads", &spec.heads},
                                                          {"ffn", &spec.ffn},
                                                          {"layers", &spec.layers}};
    for (const auto& [name, field] : kinds) {
      if (const auto value = option(part, name)) {
        target = field;
        number = *value;
      }
    }
    if (target == nullptr || *target != 0) fail();
    const auto fraction = parse_number<double>(number);
    if (!fraction || !(*fraction > 0 && *fraction < 1)) fail();
    *target = *fraction;
  }
  if (spec.two_of_four && spec.unstructured != 0) fail();
  return spec;
}

std::string sparsity_text(const SparsitySpec& spec) {
  if (spec.dense()) return "dense";
  std::string text;
  auto add = [&](const std::string& part) { text += (text.empty() ? "" : "+") + part; };
  if (spec.two_of_four) add("2:4");
  if (spec.unstructured != 0) add(fmt::format("unstructured:{}", spec.unstructured));
  if (spec.heads != 0) add(fmt::format("heads:{}", spec.heads));
  if (spec.ffn != 0) add(fmt::format("ffn:{}", spec.ffn));
  if (spec.layers != 0) add(fmt::format("layers:{}", spec.layers));
  return text;
}

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

  const auto parts = split(text, ',');
  size_t first = 0;
  if (parts[0] == "greedy") {
    first = 1;
  } else {
    spec.kind = option(parts[0], "beam") ? Kind::kBeam : Kind::kSample;
  }
  size_t next = 0;
  for (size_t i = first; i < parts.size(); ++i) {
    size_t which = next;
    while (which < std::size(options) && !option(parts[i], options[which].name)) ++which;
    if (which == std::size(options) || (i == 0 && which > kLastKind)) fail();
    const Option& o = options[which];
    if (!(spec.kind == Kind::kGreedy ? o.greedy : spec.kind == Kind::kBeam ? o.beam : o.sample)) fail();
    o.set(*option(parts[i], o.name));
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
