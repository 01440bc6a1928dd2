#include "harness/driver/session/build_of.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <set>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/base/process.h"
#include "harness/base/text.h"
#include "harness/record/environment.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr double kAnswerAllowed_s = 20;

bool is_build(const json& j) {
  return j.is_object() && j.contains("git") && j.contains("build") && j.contains("software") &&
         j["build"].is_object() && j["software"].is_object();
}

/// The folder of the build's copies of suites/, where it has one.
std::optional<fs::path> kept_suites(const fs::path& bin_dir) {
  std::error_code ec;
  for (const fs::path& folder : {bin_dir / "suites", bin_dir / TANDEM_INSTALLED_SUITES})
    if (fs::is_directory(folder, ec)) return folder;
  return std::nullopt;
}

}  // namespace

json build_of(const fs::path& bin_dir) {
  std::error_code ec;
  const fs::path own = fs::read_symlink("/proc/self/exe", ec);
  const fs::path program = bin_dir / "tandem";
  if (ec || fs::equivalent(own.parent_path(), bin_dir, ec)) return build_json();
  if (!fs::exists(program, ec)) return unknown_build_json();
  json found;
  try {
    run_process({.command = {program, "build-info"},
                 .on_line =
                     [&](const std::string& line) {
                       json j = parse_json_or_discard(line);
                       if (is_build(j)) found = std::move(j);
                     },
                 .allowed_s = [] { return kAnswerAllowed_s; }});
  } catch (const IoError&) {  // not a program that can be started here: it has nothing to say
  }
  return found.is_null() ? unknown_build_json() : found;
}

std::optional<BuildNote> build_note(const fs::path& bin_dir) {
  const fs::path file = bin_dir / "tandem-build.json";
  std::error_code ec;
  if (!fs::is_regular_file(file, ec)) return std::nullopt;
  const json j = parse_json_or_discard(read_file(file));
  if (!j.is_object()) return std::nullopt;
  const json source = j.value("source", json()), revision = j.value("revision", json());
  if (!source.is_string()) return std::nullopt;
  return BuildNote{.source = source,
                   .revision = revision.is_string() ? revision.get<std::string>() : "",
                   .dirty = j.value("dirty", json()) == json(true)};
}

fs::path kept_suite_file(const fs::path& bin_dir, const std::string& name) {
  const auto folder = kept_suites(bin_dir);
  std::error_code ec;
  return folder && fs::is_regular_file(*folder / name, ec) ? *folder / name : fs::path();
}

bool keeps_suites(const fs::path& bin_dir) {
  return kept_suites(bin_dir).has_value();
}

fs::path sweep_file(const fs::path& bin_dir, const std::string& named) {
  std::error_code ec;
  if (named.find('/') != std::string::npos || fs::is_regular_file(named, ec)) return named;
  const std::string name = named.ends_with(".json") ? named : named + ".json";
  if (const fs::path kept = kept_suite_file(bin_dir, name); !kept.empty()) return kept;
  std::set<std::string> names;
  for (const fs::path& folder : {kept_suites(bin_dir).value_or(fs::path()), fs::path("suites")}) {
    for (const auto& entry : fs::directory_iterator(folder, ec))
      if (entry.path().extension() == ".json" && entry.path().stem() != "gates")
        names.insert(entry.path().stem());
  }
  const auto meant = nearest(fs::path(name).stem().string(), {names.begin(), names.end()});
  throw UsageError(fmt::format("cannot read {}: no such file{}", named,
                               meant ? fmt::format("; did you mean '{}'?", *meant)
                               : names.empty()
                                   ? ""
                                   : fmt::format(", and no sweep of this build: {}", fmt::join(names, " "))));
}

}  // namespace tandem
