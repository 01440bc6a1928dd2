#include "harness/model/ids_file.h"

#include <fmt/format.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "harness/base/error.h"
#include "harness/base/text.h"

namespace tandem {
namespace {

constexpr std::string_view kSeparators = " \t,\r";

std::vector<int32_t> read_line(const std::string& where, std::string_view line, int32_t vocab) {
  constexpr size_t kShown = 40;
  std::vector<int32_t> ids;
  for (size_t at = line.find_first_not_of(kSeparators); at != std::string_view::npos;
       at = line.find_first_not_of(kSeparators, at)) {
    const std::string_view word = line.substr(at, line.find_first_of(kSeparators, at) - at);
    int32_t id = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || end != word.data() + word.size() || id < 0 || id >= vocab) {
      throw UsageError(fmt::format("{}: '{}' is not an id between 0 and {}", where,
                                   printable(word.substr(0, kShown)), vocab - 1));
    }
    ids.push_back(id);
    at += word.size();
  }
  if (ids.empty()) throw UsageError(fmt::format("{}: no id in it", where));
  return ids;
}

}  // namespace

std::vector<std::vector<int32_t>> read_ids(const std::string& path, int32_t vocab) {
  // Read by the driver, by each worker and for the id of the case: a pipe would be empty the second time.
  std::error_code ec;
  if (std::filesystem::exists(path, ec) && !std::filesystem::is_regular_file(path, ec)) {
    throw UsageError(fmt::format(
        "ids: {}: not a regular file, and it is read more than once; write the ids to a file", path));
  }
  std::ifstream file(path);
  if (!file) throw UsageError(fmt::format("ids: cannot read {}: {}", path, std::strerror(errno)));
  std::vector<std::vector<int32_t>> sequences;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    // What some editors put before the first character of UTF-8.
    constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
    if (number == 1 && line.starts_with(kByteOrderMark)) line.erase(0, kByteOrderMark.size());
    sequences.push_back(read_line(fmt::format("{}:{}", path, number), line, vocab));
  }
  if (file.bad()) throw IoError(fmt::format("ids: cannot read {}: {}", path, std::strerror(errno)));
  if (sequences.empty()) throw UsageError(fmt::format("{}: no line in it", path));
  return sequences;
}

}  // namespace tandem
