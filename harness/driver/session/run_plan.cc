#include "harness/driver/session/run_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <optional>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/driver/session/build_of.h"
#include "harness/driver/session/ceilings_store.h"
#include "harness/engine/traits.h"
#include "harness/record/environment.h"
#include "harness/sweep/files.h"
#include "harness/sweep/pattern.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

std::map<std::string, std::string> parse_peers(const std::vector<std::string>& given) {
  std::map<std::string, std::string> peers;
  for (const std::string& text : given) {
    const size_t equals = text.find('=');
    const std::string name = text.substr(0, equals);
    if (equals == std::string::npos || equals + 1 == text.size()) {
      throw UsageError(fmt::format("--peer: '{}' is not allowed; NAME=COMMAND", text));
    }
    Case scratch;
    axis("engine").set(scratch, name);
    if (is_own_engine(name)) {
      throw UsageError(
          fmt::format("--peer: '{}' is an engine of Tandem's own; give the peer another name", name));
    }
    if (!peers.emplace(name, text.substr(equals + 1)).second)
      throw UsageError(fmt::format("--peer: '{}' is given twice", name));
  }
  return peers;
}

std::string no_device_reason(int device) {
  if (!build_info().cuda_architectures) return "this build has no CUDA engine (preset cuda or h200 has)";
  const auto cards = nvml_cards(nvml());
  if (cards.empty()) return "no NVIDIA driver, or no card";
  return fmt::format("there is no device {} ({} card{}, CUDA_VISIBLE_DEVICES is {})", device, cards.size(),
                     cards.size() == 1 ? "" : "s",
                     std::getenv("CUDA_VISIBLE_DEVICES") ? std::getenv("CUDA_VISIBLE_DEVICES") : "not set");
}

/// Devices from `device` on.
int visible_devices(int device) {
  if (!build_info().cuda_architectures) return 0;
  const auto cards = nvml_cards(nvml());
  int n = device;
  while (visible_card(cards, std::getenv("CUDA_VISIBLE_DEVICES"), n)) ++n;
  return n - device;
}

template <typename T>
void keep_if(std::vector<T>& list, const std::function<bool(const T&)>& keep) {
  list.erase(std::remove_if(list.begin(), list.end(), [&](const T& item) { return !keep(item); }),
             list.end());
}

void apply_filter(const std::string& filter, SweepCases& sweep) {
  if (filter.empty()) return;
  std::optional<Pattern> pattern;
  try {
    pattern.emplace(filter);
  } catch (const UsageError& e) {
    throw UsageError(fmt::format("--filter: {}", e.what()));
  }
  const size_t before = sweep.cases.size() + sweep.skipped.size();
  keep_if<Case>(sweep.cases, [&](const Case& c) { return pattern->in(case_name(c)); });
  keep_if<SkippedCase>(sweep.skipped, [&](const SkippedCase& s) { return pattern->in(case_name(s.c)); });
  if (sweep.cases.empty() && sweep.skipped.empty()) {
    throw UsageError(fmt::format(
        "--filter: '{}' matches none of the {} cases; `tandem list` shows their names", filter, before));
  }
}

/// Every n-th case from the i-th on: neighbours, which cost alike, go to different shards.
void apply_shard(const std::string& shard, SweepCases& sweep) {
  if (shard.empty()) return;
  int i = 0, n = 0;
  const char* end = shard.data() + shard.size();
  auto [slash, error] = std::from_chars(shard.data(), end, i);
  bool good = error == std::errc() && slash != end && *slash == '/';
  if (good) {
    const auto [stop, error2] = std::from_chars(slash + 1, end, n);
    good = error2 == std::errc() && stop == end;
  }
  if (!good || i < 1 || n < 1 || i > n) {
    throw UsageError(fmt::format("--shard: '{}' is not allowed; i/n with 1 <= i <= n", shard));
  }
  int at = 0;
  auto mine = [&](const auto&) { return at++ % n == i - 1; };
  const size_t total = sweep.cases.size() + sweep.skipped.size();
  keep_if<Case>(sweep.cases, mine);
  keep_if<SkippedCase>(sweep.skipped, mine);
  if (sweep.cases.empty() && sweep.skipped.empty()) {
    throw UsageError(fmt::format("--shard: {} has none of the {} cases", shard, total));
  }
}

void skip_missing_suites(const RunArgs& args, const RunPlan& plan, SweepCases& sweep) {
  keep_if<Case>(sweep.cases, [&](const Case& c) {
    if (plan.peers.contains(c.engine)) return true;
    const fs::path binary = args.bin_dir / fmt::format("suite_{}", suite_name(c.suite));
    if (fs::exists(binary)) return true;
    sweep.skipped.push_back(
        {c, fmt::format("suite_{} is not in {}", suite_name(c.suite), args.bin_dir.string()), false});
    return false;
  });
}

/// The sweep's file with some axes of every group set to one value.
json sweep_with(const std::string& path, const std::map<std::string, std::string>& set) {
  json sweep;
  try {
    sweep = parse_json(read_file(path));
  } catch (const IoError& e) {
    throw UsageError(e.what());
  } catch (const UsageError& e) {
    throw UsageError(fmt::format("{}: {}", path, e.what()));
  }
  for (const auto& [name, value] : set) {
    Case probe;
    const Axis& a = axis(name);
    a.set(probe, value);  // says what is wrong with it
    if (!sweep.is_object() || !sweep.contains("groups") || !sweep["groups"].is_array()) break;
    for (json& group : sweep["groups"]) {
      if (group.is_object()) group[name] = a.integer ? json(std::stoll(value)) : json(value);
    }
  }
  return sweep;
}

SweepCases expand(const RunArgs& args, const ExpandOptions& options) {
  if (args.set.empty()) return load_sweep(args.sweep, options);
  const json sweep = sweep_with(args.sweep, args.set);
  try {
    return expand_sweep(sweep, options);
  } catch (const UsageError& e) {
    throw UsageError(fmt::format("{}: {}", args.sweep, e.what()));
  }
}

}  // namespace

RunPlan plan_run(const RunArgs& asked) {
  RunArgs args = asked;
  args.sweep = sweep_file(args.bin_dir, args.sweep);
  RunPlan plan;
  plan.peers = parse_peers(args.peers);
  plan.card = usable_card(args.device);
  plan.engine = args.engine;
  if (args.engine == "auto") plan.engine = plan.card ? "cuda" : kTruthEngine;
  if (plan.engine == "cuda" && !plan.card) {
    throw DeviceError(fmt::format("--engine cuda: no usable device: {}", no_device_reason(args.device)));
  }
  if (!is_own_engine(plan.engine) && !plan.peers.contains(plan.engine)) {
    throw UsageError(fmt::format(
        "--engine: '{}' is not allowed; auto, cuda, reference or a peer given as --peer {}=COMMAND",
        plan.engine, plan.engine));
  }
  std::vector<std::string> peer_names;
  for (const auto& [name, command] : plan.peers) peer_names.push_back(name);
  plan.sweep = expand(args, {.engine = plan.engine,
                             .device = plan.card.has_value(),
                             .devices = visible_devices(args.device),
                             .peers = peer_names,
                             .base = fs::absolute(args.sweep).parent_path().parent_path()});
  plan.sweep_sha256 = content_sha256(args.sweep);
  apply_filter(args.filter, plan.sweep);
  apply_shard(args.shard, plan.sweep);
  skip_missing_suites(args, plan, plan.sweep);
  plan.workers = args.workers.value_or(plan.sweep.workers.value_or(6));
  if (plan.workers < 1 || plan.workers > 1000) {
    throw UsageError(fmt::format("--workers: '{}' is not allowed; an integer from 1 to 1000", plan.workers));
  }
  return plan;
}

std::optional<CardInfo> ceilings_card(const RunPlan& plan) {
  return engine_traits(plan.engine).on_host ? std::nullopt : plan.card;
}

bool ceilings_apply(const Case& c, const RunPlan& plan) {
  return !engine_traits(c.engine).on_host || engine_traits(plan.engine).on_host;
}

std::vector<std::string> worker_command(const Case& c, const RunPlan& plan, const fs::path& bin_dir) {
  if (const auto peer = plan.peers.find(c.engine); peer != plan.peers.end()) {
    // exec: the engine takes the shell's place, so that it is the process that dies with the driver.
    return {"/bin/sh", "-c", fmt::format("exec {} \"$@\"", peer->second), c.engine};
  }
  return {bin_dir / fmt::format("suite_{}", suite_name(c.suite))};
}

std::vector<std::string> in_environment(std::vector<std::string> command,
                                        const std::map<std::string, std::string>& environment) {
  if (environment.empty()) return command;
  std::vector<std::string> words = {"/usr/bin/env"};  // becomes the command: the process stays the same
  for (const auto& [name, value] : environment) words.push_back(fmt::format("{}={}", name, value));
  command.insert(command.begin(), words.begin(), words.end());
  return command;
}

}  // namespace tandem
