#include "harness/sweep/sweep_spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace {

/// One group, read: per axis of the table the values to expand.
struct Group {
  Suite suite = Suite::kDecoder;
  bool needs_device = false;
  bool names_weights = false;
  std::vector<std::vector<std::string>>
      values;  // in the order of axes(); a default stands for an axis not named
};

/// A value that names a file: with the file's place under `base`, where the working folder has no such file and `base` has.
std::string located(const Axis& a, const std::string& text, const std::filesystem::path& base) {
  if (base.empty() || (a.name != "model" && a.name != "lengths")) return text;
  const size_t at = a.name == "lengths" ? text.find(':') + 1 : 0;
  const std::string path = text.substr(at);
  std::error_code ec;
  if (path.find('/') == std::string::npos || std::filesystem::exists(path, ec)) return text;
  return std::filesystem::exists(base / path, ec) ? text.substr(0, at) + (base / path).string() : text;
}

std::string axis_value(const Axis& a, const nlohmann::json& value, const ExpandOptions& options) {
  if (a.integer ? !value.is_number_integer() : !value.is_string()) {
    throw UsageError(fmt::format("{}: {} is not allowed; {}", a.name, value.dump(), a.allowed));
  }
  const std::string text = a.integer ? value.dump() : located(a, value.get<std::string>(), options.base);
  Case scratch;
  a.set(scratch, text);
  return a.get(scratch);
}

std::vector<std::string> axis_values(const Axis& a, const nlohmann::json& value,
                                     const ExpandOptions& options) {
  if (!value.is_array()) return {axis_value(a, value, options)};
  if (value.empty()) throw UsageError(fmt::format("{}: the list is empty; {}", a.name, a.allowed));
  std::vector<std::string> values;
  for (const auto& item : value) values.push_back(axis_value(a, item, options));
  return values;
}

Group read_group(const nlohmann::json& j, const ExpandOptions& options) {
  if (!j.is_object()) throw UsageError("not a JSON object");
  if (!j.contains("suite") || !j["suite"].is_string()) throw UsageError("suite: missing or not a string");
  Group group;
  group.suite = parse_suite(j["suite"].get<std::string>());
  for (const auto& [key, value] : j.items()) {
    if (key == "suite") continue;
    if (key == "needs") {
      if (value != "device")
        throw UsageError(fmt::format("needs: {} is not allowed; \"device\"", value.dump()));
      group.needs_device = true;
    } else {
      axis(key);  // throws for an unknown one
    }
  }
  group.names_weights = j.contains("weights");
  Case defaults;
  defaults.engine = options.engine;
  for (const Axis& a : axes()) {
    const std::string name(a.name);
    if (j.contains(name)) {
      group.values.push_back(axis_values(a, j[name], options));
    } else if (a.name == "op" && !suite_ops(group.suite).empty()) {
      group.values.push_back(suite_ops(group.suite));
    } else {
      group.values.push_back({a.get(defaults)});
    }
  }
  return group;
}

void check_engine(const std::string& engine, const ExpandOptions& options) {
  if (is_own_engine(engine)) return;
  if (std::find(options.peers.begin(), options.peers.end(), engine) != options.peers.end()) return;
  throw UsageError(fmt::format(
      "engine: '{}' is not allowed; cuda, reference or a peer given as --peer {}=COMMAND", engine, engine));
}

void expand_group(const Group& group, const ExpandOptions& options, std::set<std::string>& seen,
                  SweepCases& out) {
  constexpr size_t kMaxCases =
      100'000;  // far more than any run, and far less than what a slip of the pen can ask for
  size_t count = 1;
  for (const auto& values : group.values) {
    count *= values.size();
    if (count > kMaxCases) throw UsageError(fmt::format("the group is more than {} cases", kMaxCases));
  }
  std::vector<size_t> at(group.values.size(), 0);
  for (;;) {
    Case c;
    c.suite = group.suite;
    for (size_t i = 0; i < at.size(); ++i) axes()[i].set(c, group.values[i][at[i]]);
    if (!group.names_weights && std::filesystem::is_directory(c.model)) c.weights = "checkpoint";
    c = canonical(c);
    check_engine(c.engine, options);
    SkippedCase skipped{c, {}, false};
    try {
      check_combination(c);
      const int ranks = c.tp * c.dp;
      if ((c.engine == "cuda" || group.needs_device) && !options.device) {
        skipped.reason = "needs a CUDA device, there is none that can be used";
      } else if (c.engine == "cuda" && options.devices && ranks > *options.devices) {
        skipped.reason =
            fmt::format("tp {} x dp {} needs {} devices, there are {}", c.tp, c.dp, ranks, *options.devices);
      }
      skipped.for_device = !skipped.reason.empty();
    } catch (const ImpossibleCase& e) {
      skipped.reason = e.what();
    }
    if (seen.insert(case_id(c)).second) {
      if (skipped.reason.empty()) {
        out.cases.push_back(c);
      } else {
        out.skipped.push_back(std::move(skipped));
      }
    }
    size_t i = at.size();
    while (i > 0 && ++at[i - 1] == group.values[i - 1].size()) at[--i] = 0;
    if (i == 0) return;
  }
}

}  // namespace

bool is_own_engine(std::string_view name) {
  return name == "cuda" || name == "reference";
}

SweepCases expand_sweep(const nlohmann::json& sweep, const ExpandOptions& options) {
  if (!sweep.is_object()) throw UsageError("not a JSON object with 'groups'");
  SweepCases out;
  for (const auto& [key, value] : sweep.items()) {
    if (key == "workers") {
      if (!value.is_number_integer() || value < 1 || value > 1000) {
        throw UsageError(fmt::format("workers: {} is not allowed; an integer from 1 to 1000", value.dump()));
      }
      out.workers = value.get<int>();
    } else if (key != "groups") {
      throw UsageError(fmt::format("unknown key '{}'; workers, groups", key));
    }
  }
  if (!sweep.contains("groups") || !sweep["groups"].is_array() || sweep["groups"].empty()) {
    throw UsageError("groups: a list of at least one group is needed");
  }
  std::set<std::string> seen;
  int index = 0;
  for (const auto& j : sweep["groups"]) {
    try {
      expand_group(read_group(j, options), options, seen, out);
    } catch (const UsageError& e) {
      throw UsageError(fmt::format("groups[{}]: {}", index, e.what()));
    }
    ++index;
  }
  return out;
}

SweepCases load_sweep(const std::string& path, const ExpandOptions& options) {
  std::string sweep_text;
  try {
    sweep_text = read_file(path);
  } catch (const IoError& e) {
    throw UsageError(e.what());
  }
  try {
    return expand_sweep(parse_json(sweep_text), options);
  } catch (const UsageError& e) {
    throw UsageError(fmt::format("{}: {}", path, e.what()));
  }
}

}  // namespace tandem
