#include "harness/driver/talk/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "harness/base/text.h"
#include "harness/sweep/case.h"

namespace tandem {
namespace {

constexpr size_t kNarrowest = 20;

/// "model:/a/b" is one part: a slash begins another only before the name of an axis.
std::vector<std::string> parts_of(const std::string& name) {
  std::vector<std::string> parts;
  for (const std::string_view piece : split_text(name, '/')) {
    const std::string_view word = piece.substr(0, piece.find(':'));
    const bool begins = parts.empty() || std::any_of(axes().begin(), axes().end(),
                                                     [&](const Axis& a) { return a.name == word; });
    if (begins) {
      parts.emplace_back(piece);
    } else {
      parts.back() += '/';
      parts.back() += piece;
    }
  }
  return parts;
}

}  // namespace

std::optional<size_t> terminal_width(int fd) {
  winsize size = {};
  if (::isatty(fd) != 0 && ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
    return std::max<size_t>(size.ws_col, kNarrowest);
  const char* columns = std::getenv("COLUMNS");
  const auto said = parse_number<size_t>(columns != nullptr ? columns : "");
  if (!said || *said == 0) return std::nullopt;
  return std::max(*said, kNarrowest);
}

bool redraws(int fd) {
  const char* name = std::getenv("TERM");
  return ::isatty(fd) != 0 && (name == nullptr || std::string_view(name) != "dumb");
}

std::string cut_to(std::string_view text, size_t width) {
  size_t shown = 0, fits = 0;
  for (size_t at = 0; at < text.size(); ++shown) {
    if (shown + 1 == width) fits = at;
    if (shown == width) return width == 0 ? std::string() : std::string(text.substr(0, fits)) + "~";
    at += std::max<size_t>(1, utf8_length(text.substr(at)));
  }
  return std::string(text);
}

std::string wrapped(std::string_view text, size_t width, size_t indent, char at) {
  std::string all;
  for (std::string_view rest : split_text(text, '\n')) {
    for (bool first = all.empty();; first = false) {
      const size_t before = first ? 0 : indent;
      const size_t fits = width > before + 1 ? width - before : 1;
      all += std::string(before, ' ');
      if (rest.size() <= fits) break;
      // The last place to break at that fits, else the first one there is; blanks that a line begins with are no such place.
      const size_t from = std::min(rest.find_first_not_of(' '), rest.size());
      size_t cut = rest.rfind(at, at == ' ' ? fits : fits - 1);
      if (cut == std::string_view::npos || cut < from) cut = rest.find(at, from);
      if (cut == std::string_view::npos || cut + 1 >= rest.size()) break;
      all += rest.substr(0, at == ' ' ? cut : cut + 1);
      all += '\n';
      rest.remove_prefix(cut + 1);
      if (at == ' ') rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
    }
    all += rest;
    all += '\n';
  }
  all.pop_back();
  return all;
}

ShortNames shorten(const std::vector<std::string>& case_names) {
  if (case_names.size() < 2) return {.shared = {}, .names = case_names};
  std::vector<std::vector<std::string>> parts;
  for (const std::string& name : case_names) parts.push_back(parts_of(name));
  const auto has = [](const std::vector<std::string>& list, const std::string& part) {
    return std::find(list.begin(), list.end(), part) != list.end();
  };
  std::vector<std::string> shared;
  for (const std::string& part : parts[0]) {
    if (std::all_of(parts.begin(), parts.end(), [&](const auto& other) { return has(other, part); }))
      shared.push_back(part);
  }
  const auto append = [](std::string& text, const std::string& part) {
    if (!text.empty()) text += '/';
    text += part;
  };
  ShortNames shortened;
  for (const std::string& part : shared) append(shortened.shared, part);
  for (const auto& of_one : parts) {
    std::string name;
    for (const std::string& part : of_one) {
      if (!has(shared, part)) append(name, part);
    }
    shortened.names.push_back(name.empty() ? of_one[0] : name);
  }
  return shortened;
}

}  // namespace tandem
