// A sweep file: groups of axes and values that expand into cases.
//
//   {"workers": 1,
//    "groups": [{"suite": "decoder", "model": ["tiny"], "batch": [1, 8], "precision": ["fp32"]},
//               {"suite": "encoder", "model": "transformer-base", "needs": "device"}]}
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "harness/sweep/case.h"

namespace tandem {

struct SkippedCase {
  Case c;
  std::string reason;
  bool for_device = false;  ///< skipped for want of a device, or of enough devices
};

struct SweepCases {
  std::vector<Case> cases;
  std::vector<SkippedCase> skipped;  ///< impossible combinations and cases that this machine cannot run
  std::optional<int> workers;        ///< the sweep's own default, if it names one
};

/// Is it an engine of Tandem's own? Every other name is a peer's.
bool is_own_engine(std::string_view name);

/// What the sweep is expanded for.
struct ExpandOptions {
  std::string engine = "reference";  ///< the resolved engine: that of every group that does not name one
  bool device = false;  ///< is there a usable device? without, "needs": "device" and engine cuda are skipped
  std::optional<int> devices = {};      ///< how many, when known: cases of more ranks are skipped
  std::vector<std::string> peers = {};  ///< engines beside cuda and reference that a case may name
  std::filesystem::path base = {};  ///< where files of models and lengths are that the working folder has not
};

/// Expands every group (cartesian product, first axis of the README's table outermost), makes each case
/// canonical and drops duplicates. A model that is a folder takes its weights from it ("checkpoint") where
/// the group names none. Throws UsageError for JSON that is not a sweep: unknown key, axis, engine or value,
/// empty list, no group.
SweepCases expand_sweep(const nlohmann::json& sweep, const ExpandOptions& options);
/// Reads and expands a file; messages carry its path.
SweepCases load_sweep(const std::string& path, const ExpandOptions& options);

}  // namespace tandem
