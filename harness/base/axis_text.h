// The pieces that the values of axes are made of: parts, options, numbers.
#pragma once

#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/error.h"

namespace tandem {

/// Throws UsageError: "AXIS: 'VALUE' is not allowed; ALLOWED".
[[noreturn]] inline void not_allowed(std::string_view axis, std::string_view value,
                                     std::string_view allowed) {
  throw UsageError(std::string(axis) + ": '" + std::string(value) + "' is not allowed; " +
                   std::string(allowed));
}

/// The parts between separators, empty ones included.
inline std::vector<std::string_view> split_text(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

/// The whole of `text` as a number, or nothing.
template <typename T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// What follows "name:" in one option, or nothing when `part` is another.
inline std::optional<std::string_view> option_value(std::string_view part, std::string_view name) {
  if (!part.starts_with(name) || part.size() <= name.size() || part[name.size()] != ':') return std::nullopt;
  return part.substr(name.size() + 1);
}

}  // namespace tandem
