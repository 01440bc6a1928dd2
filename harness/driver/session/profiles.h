// profiles.jsonl of a run folder: one line a case and profile pass; the last line of a pair counts. The files of traces that the
// lines name lie in traces/.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "harness/record/line_log.h"

namespace tandem {

inline constexpr std::string_view kProfilesFile = "profiles.jsonl";
inline constexpr std::string_view kProfileSchema = "1.0.0";

/// By case id: the share of the device's busy time that belongs to a phase, where a profile of nodes was made and whole. Lines
/// that cannot be read are left out.
std::map<std::string, double> read_attributed(const std::filesystem::path& run_dir);

}  // namespace tandem
