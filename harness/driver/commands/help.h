// --help within 80 columns. CLI11 breaks no line.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/text.h"
#include "harness/driver/talk/terminal.h"

namespace tandem {

class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_description(const CLI::App* app) const override { return wide(app->get_description()); }
  std::string make_footer(const CLI::App* app) const override { return wide(app->get_footer()); }
  std::string make_subcommand(const CLI::App* sub) const override {
    return entry(sub->get_name(), sub->get_description());
  }
  std::string make_option(const CLI::Option* option, bool positional) const override {
    std::string value, description = option->get_description();
    if (option->get_type_size() != 0 && !positional) {
      // What is allowed is said in words; CLI11's names of checks are for those who write them.
      value = " " + option->get_type_name();
      value.resize(std::min(value.size(), value.find(':')));
      if (const std::string usual = option->get_default_str(); !usual.empty())
        description += usual.front() == '[' ? " " + usual : " [" + usual + "]";
    }
    return entry(make_option_name(option, positional) + value, description);
  }

 private:
  static constexpr size_t kWidth = 80, kColumn = 24;

  static std::string wide(const std::string& text) {
    return text.empty() ? text : wrapped(text, kWidth, 0) + "\n";
  }
  static std::string entry(const std::string& name, const std::string& description) {
    std::string text = "  " + name;
    text += text.size() + 2 > kColumn ? "\n" + std::string(kColumn, ' ')
                                      : std::string(kColumn - text.size(), ' ');
    const std::string lines = wrapped(description, kWidth - kColumn, 0);
    for (const char c : lines) text += c == '\n' ? "\n" + std::string(kColumn, ' ') : std::string(1, c);
    return text + "\n";
  }
};

/// Parses; a flag that `app` (or the command of it that was called) does not know is one line with what was meant. Throws
/// UsageError, and CLI::Success where help or the version was asked for.
inline void parse_flags(CLI::App& app, std::vector<std::string> words, const std::string& see) {
  const std::vector<std::string> given = words;
  std::reverse(words.begin(), words.end());  // as CLI11 takes a list
  try {
    app.parse(std::move(words));
  } catch (const CLI::Success&) {
    throw;
  } catch (const CLI::ParseError& e) {
    const auto called = app.get_subcommands();
    const CLI::App& command = called.empty() ? app : *called.front();
    std::vector<std::string> known;
    for (const CLI::Option* option : command.get_options()) {
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    }
    for (const std::string& word : given) {
      const std::string name = word.substr(0, word.find('='));
      const bool flag =
          name.size() > 1 && name[0] == '-' && std::isdigit(static_cast<unsigned char>(name[1])) == 0;
      if (!flag || command.get_option_no_throw(name) != nullptr) continue;
      throw UsageError("unknown flag '" + name + "'" + did_you_mean(name, known) + " (see " + see + ")");
    }
    throw UsageError(std::string(e.what()) + " (see " + see + ")");
  }
}

}  // namespace tandem
