// A sweep file: groups of axes and values that expand into cases.
//
//   {"workers": 1,
//    "groups": [{"suite": "decoder", "model": ["tiny"], "batch": [1, 8], "precision": ["fp32"]},
//               {"suite": "encoder", "model": "transformer-base", "needs": "device"}]}
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "harness/sweep/case.h"

namespace tandem {

struct SkippedCase {
  Case c;
  std::string reason;
};

struct SweepCases {
  std::vector<Case> cases;
  std::vector<SkippedCase> skipped;  ///< impossible combinations and cases that this machine cannot run
  std::optional<int> workers;        ///< the sweep's own default, if it names one
};

/// What the sweep is expanded for.
struct ExpandOptions {
  std::string engine;   ///< the resolved engine; replaces the engine axis of every group that does not name one
  bool device = false;  ///< is there a usable device? groups with "needs": "device" are skipped without one
};

/// Expands every group (cartesian product, first axis of the README's table outermost), drops duplicates.
/// Throws UsageError for JSON that is not a sweep: unknown key, axis or value, empty list, no group.
SweepCases expand_sweep(const nlohmann::json& sweep, const ExpandOptions& options);
/// Reads and expands a file; messages carry its path.
SweepCases load_sweep(const std::string& path, const ExpandOptions& options);

/// The operations that suite_kernels, suite_memory and suite_limits know; an empty op axis expands into all of them.
const std::vector<std::string>& suite_ops(Suite suite);

}  // namespace tandem
