// Text from outside: bytes of a command line or a file, which may be anything, and the pieces that the values of axes are
// made of: parts, options, numbers.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/error.h"

namespace tandem {

/// Bytes of the UTF-8 sequence that `text` begins with (Unicode 3.9, table 3-7); 0 where it begins with none.
inline size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto follows = [&](size_t i) { return (byte(i) & 0xC0u) == 0x80u; };
  const unsigned first = byte(0), second = byte(1);
  if (text.empty()) return 0;
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF && follows(1)) return 2;
  const bool overlong = (first == 0xE0 && second < 0xA0) || (first == 0xF0 && second < 0x90);
  const bool outside = (first == 0xED && second > 0x9F) || (first == 0xF4 && second > 0x8F);
  if (overlong || outside) return 0;
  if (first >= 0xE0 && first <= 0xEF && follows(1) && follows(2)) return 3;
  if (first >= 0xF0 && first <= 0xF4 && follows(1) && follows(2) && follows(3)) return 4;
  return 0;
}

inline bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

/// `text` for a line of a message: control characters and bytes that are no UTF-8 as \xNN.
inline std::string printable(std::string_view text) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string shown;
  while (!text.empty()) {
    size_t length = utf8_length(text);
    const auto byte = static_cast<unsigned char>(text[0]);
    if (length == 0 || byte < 0x20 || byte == 0x7F) {
      shown += "\\x";
      shown += kDigits[byte >> 4];
      shown += kDigits[byte & 15];
      length = 1;
    } else {
      shown.append(text.substr(0, length));
    }
    text.remove_prefix(length);
  }
  return shown;
}

/// Every argument may end in a record, which is JSON. Throws UsageError for one that is no text.
inline void check_arguments(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    if (!is_utf8(argv[i])) {
      throw UsageError("argument " + std::to_string(i) + ", '" + printable(argv[i]) +
                       "': not UTF-8, which records of it could not hold; give the file another name");
    }
  }
}

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

/// Slips of the keyboard from one word to the other: letters left out, put in, changed, or two neighbours swapped.
inline size_t slips_between(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        d[i][j] = i + j;
        continue;
      }
      d[i][j] =
          std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

/// The known word that `word` is a slip of (one, or one in three letters), or the only one that it begins; else nothing.
inline std::optional<std::string> nearest(std::string_view word, const std::vector<std::string>& known) {
  constexpr size_t kLongest = 200;  // the table of slips is as large as both words together
  if (word.size() > kLongest) return std::nullopt;
  std::optional<std::string> best;
  size_t fewest = std::max<size_t>(1, word.size() / 3) + 1;
  for (const std::string& k : known) {
    const size_t slips = k.size() > kLongest ? fewest : slips_between(word, k);
    if (slips < fewest) {
      fewest = slips;
      best = k;
    }
  }
  if (best || word.size() < 2) return best;
  const auto begins = [&](const std::string& k) { return k.starts_with(word); };
  if (std::count_if(known.begin(), known.end(), begins) == 1)
    best = *std::find_if(known.begin(), known.end(), begins);
  return best;
}

/// "; did you mean 'WORD'?" with the nearest one; empty where none is near.
inline std::string did_you_mean(std::string_view word, const std::vector<std::string>& known) {
  const auto meant = nearest(word, known);
  return meant ? "; did you mean '" + *meant + "'?" : std::string();
}

/// What follows "name:" in one option, or nothing when `part` is another.
inline std::optional<std::string_view> option_value(std::string_view part, std::string_view name) {
  if (!part.starts_with(name) || part.size() <= name.size() || part[name.size()] != ':') return std::nullopt;
  return part.substr(name.size() + 1);
}

}  // namespace tandem
