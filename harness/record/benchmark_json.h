// benchmark.json: the run in Google Benchmark's own format, so that its tools/compare.py reads it.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "harness/record/record.h"

namespace tandem {

/// `context` (json_schema_version 1), one `iteration` entry per worker and case that was measured, and a list
/// `failures` of its own: an errored entry inside `benchmarks` makes compare.py's geometric mean vanish.
/// Counters whose value is not known are left out; the whole record is under `tandem`. Never NaN.
nlohmann::json benchmark_json(const nlohmann::json& environment, const std::vector<Record>& records);

}  // namespace tandem
