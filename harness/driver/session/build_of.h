// What another build says of itself.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace tandem {

/// build_json() of the build in `bin_dir`, asked of its own `tandem`; "unknown" and nulls where it has none that can tell.
nlohmann::json build_of(const std::filesystem::path& bin_dir);

/// What a build's tandem-build.json says of its sources.
struct BuildNote {
  std::string source;    ///< folder
  std::string revision;  ///< of git; empty: not known
  bool dirty = false;    ///< tracked files differed from it
};
/// Nothing where the build in `bin_dir` left none that can be read.
std::optional<BuildNote> build_note(const std::filesystem::path& bin_dir);

/// The file `name` of suites/ as the build in `bin_dir` was made with it: beside its binaries, or where `cmake --install` puts it.
/// Empty where it keeps none of that name.
std::filesystem::path kept_suite_file(const std::filesystem::path& bin_dir, const std::string& name);
/// Does the build in `bin_dir` keep the files of suites/ at all? One that was made before builds did, or that was copied without
/// them, does not.
bool keeps_suites(const std::filesystem::path& bin_dir);
/// The sweep that `named` means: a file; or, as "smoke" or "smoke.json", one of suites/ as the build in `bin_dir` keeps it, where the
/// working folder has no file of that name. Throws UsageError naming those that are kept where it is neither.
std::filesystem::path sweep_file(const std::filesystem::path& bin_dir, const std::string& named);

}  // namespace tandem
