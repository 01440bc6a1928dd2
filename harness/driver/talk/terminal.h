// Lines that fit where they are shown.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

/// Columns of the terminal behind a file descriptor; COLUMNS of the environment where it says so; absent where neither does.
std::optional<size_t> terminal_width(int fd);
/// Is it a terminal that knows how to clear a line? Not one that calls itself dumb.
bool redraws(int fd);

/// The first `width` characters, the last of them "~" where some are left out. `text` is UTF-8.
std::string cut_to(std::string_view text, size_t width);
/// Broken at blanks, or after `at` where it is another character, so that no line is longer than `width` (but for a word that
/// is); lines after the first begin with `indent` blanks. A newline in `text` stays one, and so do blanks inside a line.
std::string wrapped(std::string_view text, size_t width, size_t indent, char at = ' ');

/// Names of cases without the parts that all of them share.
struct ShortNames {
  std::string shared;  ///< "precision:fp32/tp:1"; empty where they share nothing, or there is only one
  std::vector<std::string> names;
};
ShortNames shorten(const std::vector<std::string>& case_names);

}  // namespace tandem
