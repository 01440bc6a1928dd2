// `tandem-report`, which holds the statistics: found, asked, understood.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "harness/base/error.h"

namespace tandem {

/// The tool: on PATH (then its name alone), beside the binaries in `bin_dir`, or in the .venv of the repository that `bin_dir`
/// is built in (from the working folder on, where it is below). Absent where it is in none of them.
std::optional<std::string> report_program(const std::filesystem::path& bin_dir);

/// A duet has no verdict: the tool has no answer, or the card none.
class NoVerdict : public Error {
 public:
  using Error::Error;
  ExitCode exit_code() const override { return ExitCode::kCrashed; }
};

class ReportTool {
 public:
  /// Looks where report_program does. Throws UsageError saying where it looked.
  explicit ReportTool(const std::filesystem::path& bin_dir);

  /// Pairs that each of `looks` looks at `cases` cases is planned at by the rules that `duet` keeps. Throws NoVerdict with what the
  /// tool said.
  std::vector<int> plan(const std::filesystem::path& duet, int cases, int looks) const;
  struct Verdict {
    nlohmann::json content;  ///< the gate's JSON
    int code = 0;            ///< its exit code
  };
  /// The gate's word on a duet at look `look` of `of`. Throws NoVerdict with what the tool said when it has none.
  Verdict judge(const std::filesystem::path& duet, int look, int of) const;
  /// The gate's word on a duet as its notes say it was looked at. Throws NoVerdict with what the tool said when it has none.
  Verdict verdict(const std::filesystem::path& duet) const;
  struct Table {
    std::string text;
    int code = 0;
  };
  /// What the looks that the duet's notes tell of have found, as a table for people, with the gate's exit code.
  Table table(const std::filesystem::path& duet) const;

  const std::string& program() const { return program_; }

 private:
  struct Said {
    std::string out, talk;
    int code = 0;
  };
  Said ask(std::vector<std::string> words) const;
  Verdict understand(const Said& said) const;

  std::string program_;
};

}  // namespace tandem
