// POSIX extended regular expressions, as Google Benchmark's --benchmark_filter takes them.
#pragma once

#include <regex.h>

#include <string>

namespace tandem {

class Pattern {
 public:
  /// Throws UsageError with what is wrong with the expression.
  explicit Pattern(const std::string& expression);
  ~Pattern() { ::regfree(&compiled_); }
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;

  /// Does any part of the text match?
  bool in(const std::string& text) const { return ::regexec(&compiled_, text.c_str(), 0, nullptr, 0) == 0; }

 private:
  regex_t compiled_;
};

}  // namespace tandem
