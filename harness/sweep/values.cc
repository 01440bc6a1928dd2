#include "harness/sweep/values.h"

#include <fmt/format.h>

#include <charconv>
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
  DecodeSpec spec;
  if (text == "greedy") return spec;
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
  const auto parts = split(text, ',');
  const bool beam = option(parts[0], "beam").has_value();
  spec.kind = beam ? DecodeSpec::Kind::kBeam : DecodeSpec::Kind::kSample;
  // Options come in one order, so that each is given at most once; the first part says which kind it is.
  constexpr std::string_view kOrder[] = {"beam", "top_k", "top_p", "temperature", "length_penalty"};
  int next = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    int which = 0;
    std::optional<std::string_view> value;
    for (int k = 0; k < 5 && !value; ++k) {
      value = option(parts[i], kOrder[k]);
      which = k;
    }
    if (!value || which < next || (i == 0 && which > 2)) fail();
    if (i > 0 && beam != (which == 4)) fail();
    next = which + 1;
    if (which == 0) spec.beams = integer_in(*value, 2, 32);
    if (which == 1) spec.top_k = integer_in(*value, 1, 1024);
    if (which == 2) spec.top_p = number_in(*value, 0, 1, true);
    if (which == 3) spec.temperature = number_in(*value, 0, 100, true);
    if (which == 4) spec.length_penalty = number_in(*value, 0, 10, false);
  }
  return spec;
}

std::string decode_text(const DecodeSpec& spec) {
  if (spec.kind == DecodeSpec::Kind::kGreedy) return "greedy";
  if (spec.kind == DecodeSpec::Kind::kBeam) {
    return spec.length_penalty == 1
               ? fmt::format("beam:{}", spec.beams)
               : fmt::format("beam:{},length_penalty:{}", spec.beams, spec.length_penalty);
  }
  std::string text;
  auto add = [&](const std::string& part) { text += (text.empty() ? "" : ",") + part; };
  if (spec.top_k != 0) add(fmt::format("top_k:{}", spec.top_k));
  if (spec.top_p != 1 || spec.top_k == 0) add(fmt::format("top_p:{}", spec.top_p));
  if (spec.temperature != 1) add(fmt::format("temperature:{}", spec.temperature));
  return text;
}

}  // namespace tandem
