#include "harness/driver/session/run_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iterator>
#include <optional>
#include <sstream>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/base/process.h"
#include "harness/base/text.h"
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

/// "; did you mean 'FOLDER/NAME'?" with the file of these folders whose name is nearest; empty where none is near.
std::string meant_file(const std::string& name, const std::vector<fs::path>& folders) {
  std::vector<std::string> names;
  std::map<std::string, fs::path> paths;
  for (const fs::path& folder : folders) {
    std::error_code none;
    for (const auto& entry : fs::directory_iterator(folder.empty() ? "." : folder, none)) {
      names.push_back(entry.path().filename());
      paths.emplace(names.back(), folder / names.back());
    }
  }
  const auto meant = nearest(name, names);
  return meant ? fmt::format("; did you mean '{}'?", paths[*meant].string()) : "";
}

/// Throws UsageError where the program of a peer, or the script that an interpreter is given first, is not there: said once
/// instead of by every case that crashes. What a shell would have to work out is left to it.
void check_peer(const std::string& name, const std::string& command) {
  if (command.find_first_of("|&;<>()$`\\\"'*?[#~{}!\n") != std::string::npos) return;
  std::istringstream text(command);
  std::vector<std::string> words(std::istream_iterator<std::string>(text), {});
  const auto assigns = [](const std::string& word) { return word.find('=') != std::string::npos; };
  words.erase(words.begin(), std::find_if_not(words.begin(), words.end(), assigns));
  if (words.empty()) return;
  const auto require = [&](const std::string& file) {
    if (fs::exists(file)) return;
    throw UsageError(fmt::format("--peer {}: '{}' is not there{}", name, file,
                                 meant_file(fs::path(file).filename(), {fs::path(file).parent_path()})));
  };
  const std::string& program = words[0];
  if (program.find('/') != std::string::npos) {
    require(program);
  } else if (!program_on_path(program)) {
    throw UsageError(fmt::format("--peer {}: no program '{}' on PATH", name, program));
  }
  const std::string base = fs::path(program).filename().string();
  const bool interprets = base.starts_with("python") || base == "bash" || base == "sh" || base == "perl";
  if (interprets && words.size() > 1 && words[1][0] != '-') require(words[1]);
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
    throw NothingMatches(fmt::format(
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
    std::vector<std::string> known = {"auto", "cuda", "reference"};
    for (const auto& [name, command] : plan.peers) known.push_back(name);
    throw UsageError(fmt::format(
        "--engine: '{}' is not allowed; auto, cuda, reference or a peer given as --peer {}=COMMAND{}",
        plan.engine, plan.engine, did_you_mean(plan.engine, known)));
  }
  std::vector<std::string> peer_names;
  for (const auto& [name, command] : plan.peers) {
    check_peer(name, command);
    peer_names.push_back(name);
  }
  if (!fs::exists(args.sweep))
    throw UsageError(fmt::format("cannot read {}: no such file{}", args.sweep,
                                 meant_file(fs::path(args.sweep).stem().string() + ".json",
                                            {fs::path(args.sweep).parent_path(), "suites"})));
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
