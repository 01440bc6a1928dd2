#include "harness/driver/duet/report_tool.h"

#include <fmt/format.h>
#include <unistd.h>

#include <optional>
#include <sstream>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/base/process.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr double kAnswerAllowed_s = 300;  // importing takes seconds on a cold disk
constexpr const char* kName = "tandem-report";

bool executable(const fs::path& path) {
  std::error_code ec;
  return fs::is_regular_file(path, ec) && ::access(path.c_str(), X_OK) == 0;
}

/// The .venv of the nearest folder above that has one.
std::optional<fs::path> in_venv(const fs::path& bin_dir) {
  for (fs::path folder = fs::absolute(bin_dir).lexically_normal();; folder = folder.parent_path()) {
    const fs::path candidate = folder / ".venv" / "bin" / kName;
    if (executable(candidate)) return candidate;
    if (!folder.has_relative_path()) return std::nullopt;
  }
}

}  // namespace

std::optional<std::string> report_program(const fs::path& bin_dir) {
  if (program_on_path(kName)) return kName;
  if (executable(bin_dir / kName)) return bin_dir / kName;
  const auto found = in_venv(bin_dir);
  if (!found) return std::nullopt;
  const fs::path near = found->lexically_relative(fs::current_path());
  return near.empty() || *near.begin() == ".." ? found->string() : near.string();
}

ReportTool::ReportTool(const fs::path& bin_dir) {
  const auto found = report_program(bin_dir);
  if (!found) {
    throw UsageError(fmt::format(
        "{} is not on PATH, not in {} and not in a .venv above it; scripts/bootstrap installs it, "
        "or pip install reports/",
        kName, bin_dir.string()));
  }
  program_ = *found;
}

ReportTool::Said ReportTool::ask(std::vector<std::string> words) const {
  words.insert(words.begin(), {program_, "gate"});
  Said said;
  const ProcessEnd end = run_process({.command = words,
                                      .on_line = [&](const std::string& line) { said.out += line + "\n"; },
                                      .allowed_s = [] { return kAnswerAllowed_s; }});
  if (end.how == ProcessEnd::How::kInterrupted) throw Interrupted("interrupted");
  said.talk = end.talk;
  said.code = end.code;
  if (end.how != ProcessEnd::How::kExited) {
    throw NoVerdict(fmt::format("{} gate {}: {}", program_, end.describe(), end.talk));
  }
  return said;
}

std::vector<int> ReportTool::plan(const fs::path& duet, int cases, int looks) const {
  const Said said = ask({"--plan", std::to_string(cases), "--look", fmt::format("1/{}", looks), "--json",
                         "--policy", duet / "gates.json"});
  const json j = parse_json_or_discard(said.out);
  try {
    std::vector<int> pairs = j.at("pairs").get<std::vector<int>>();
    if (said.code == 0 && static_cast<int>(pairs.size()) == looks) return pairs;
  } catch (const json::exception&) {  // said below
  }
  // A bad policy is the user's to mend, and said in one line.
  if (said.code == static_cast<int>(ExitCode::kUsage)) throw UsageError(said.talk);
  throw NoVerdict(fmt::format("{} gate --plan exited with code {}: {}", program_, said.code, said.talk));
}

ReportTool::Verdict ReportTool::understand(const Said& said) const {
  json j = parse_json_or_discard(said.out);
  const bool whole = j.is_object() && j.contains("stop") && j["stop"].is_boolean() && j.contains("counts") &&
                     j["counts"].is_object() && j.contains("cases") && j["cases"].is_array();
  if (!whole) throw NoVerdict(fmt::format("{} gate exited with code {}: {}", program_, said.code, said.talk));
  return {.content = std::move(j), .code = said.code};
}

ReportTool::Verdict ReportTool::judge(const fs::path& duet, int look, int of) const {
  return understand(ask({duet, "--look", fmt::format("{}/{}", look, of), "--json"}));
}

ReportTool::Verdict ReportTool::verdict(const fs::path& duet) const {
  return understand(ask({duet, "--json"}));
}

ReportTool::Table ReportTool::table(const fs::path& duet) const {
  Said said = ask({duet});
  if (said.out.empty())
    throw NoVerdict(fmt::format("{} gate exited with code {}: {}", program_, said.code, said.talk));
  return {.text = std::move(said.out), .code = said.code};
}

}  // namespace tandem
