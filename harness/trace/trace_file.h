// The file of a trace, which reports/tandem_reports reads: JSON, one list a column, times in nanoseconds from the first record.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "harness/trace/activity.h"

namespace tandem {

inline constexpr std::string_view kTraceSchema = "1.0.0";

/// `about`: what the reader is to know beside the records (case, level, cost, ceilings); its members stand at the top.
nlohmann::json trace_json(const Trace& trace, std::span<const Replay> replays, const nlohmann::json& about);

/// Throws IoError.
void write_trace(const std::string& path, const nlohmann::json& trace);

}  // namespace tandem
