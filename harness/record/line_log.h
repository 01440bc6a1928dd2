// An append-only file of whole lines: each is on the disk before append returns, and a kill at any moment
// leaves at most an unterminated last line.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace tandem {

class LineLog {
 public:
  /// Opens or creates. An unterminated last line left by a kill is cut off. The file is locked: throws
  /// IoError when another process writes it, or when it cannot be written.
  explicit LineLog(std::string path);
  ~LineLog();
  LineLog(const LineLog&) = delete;
  LineLog& operator=(const LineLog&) = delete;

  /// `line` without its newline. Throws IoError (a full disk): the file then ends with the last whole line.
  void append(std::string_view line);
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int fd_ = -1;
};

/// Calls `take` with the number (from 1) and text of each whole line. Returns what was said about an
/// unterminated last line, which is left out, or an empty text. Throws IoError.
std::string for_each_line(const std::string& path, const std::function<void(int, const std::string&)>& take);

}  // namespace tandem
