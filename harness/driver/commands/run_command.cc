// `tandem run`.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/base/process.h"
#include "harness/driver/commands/commands.h"
#include "harness/driver/duet/report_tool.h"
#include "harness/driver/session/ceilings_store.h"
#include "harness/driver/talk/terminal.h"
#include "harness/record/environment.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

std::string summary_line(const std::map<Status, int>& counts) {
  std::string text;
  for (const auto& [status, count] : counts) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, status_name(status));
  }
  return text.empty() ? "nothing" : text;
}

ExitCode exit_code_of(const std::map<Status, int>& counts, const SweepCases& sweep) {
  int measured = 0, failed = 0;
  for (const auto& [status, count] : counts) {
    if (status == Status::kOk) measured += count;
    if (status != Status::kOk && status != Status::kSkipped) failed += count;
  }
  if (failed > 0) return ExitCode::kFailed;
  if (measured > 0) return ExitCode::kGood;
  for (const SkippedCase& s : sweep.skipped) {
    if (s.for_device) return ExitCode::kNoDevice;
  }
  return ExitCode::kUsage;
}

std::string resume_command(const RunArgs& args) {
  std::vector<std::string> words = {own_command(), "run", args.sweep, "--out", args.out, "--resume"};
  if (args.engine != "auto") words.insert(words.end(), {"--engine", args.engine});
  for (const std::string& peer : args.peers) words.insert(words.end(), {"--peer", peer});
  if (!args.filter.empty()) words.insert(words.end(), {"--filter", args.filter});
  if (!args.shard.empty()) words.insert(words.end(), {"--shard", args.shard});
  if (args.device != 0) words.insert(words.end(), {"--device", std::to_string(args.device)});
  if (args.check_again) words.emplace_back("--check-again");
  if (args.workers) words.insert(words.end(), {"--workers", std::to_string(*args.workers)});
  return shell_command(words);
}

/// Cases that beat their floor put the ceilings in question: told, and kept for the next run.
void report_beaten(const Session& session) {
  const Record* most = nullptr;
  std::set<std::string> beaten;
  for (const Record& r : session.folder().records()) {
    if (!r.floor.ratio || *r.floor.ratio >= kBeatenFloor || !is_model_suite(r.c.suite)) continue;
    beaten.insert(r.id);
    if (most == nullptr || *r.floor.ratio < *most->floor.ratio) most = &r;
  }
  if (most == nullptr) return;
  const std::string why = fmt::format("{} took {:.4g} us, under its floor of {:.4g}", most->name,
                                      most->summary->median_us, *most->floor.floor_us);
  say(fmt::format(
      "CEILINGS IN QUESTION: {} case{} faster than {} floor; {}; `tandem doctor` shows them, the next run "
      "measures them again",
      beaten.size(), beaten.size() == 1 ? " is" : "s are", beaten.size() == 1 ? "its" : "their", why));
  doubt_ceilings(ceilings_card(session.plan()), why);
}

}  // namespace

std::string default_run_folder(const std::string& sweep) {
  const std::string stem = fs::path(sweep).stem().string();
  std::string stamp;
  for (const char c : utc_now()) {
    if (c != '-' && c != ':') stamp += c;
  }
  const std::string base = fmt::format("runs/{}-{}", stem, stamp);
  std::string name = base;
  for (int n = 2; fs::exists(name); ++n) name = fmt::format("{}-{}", base, n);
  return name;
}

std::string shell_command(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) {
    const bool plain = !word.empty() && word.find_first_not_of(
                                            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                            "_-+=:,./@%") == std::string::npos;
    std::string quoted = "'";
    for (const char c : word) quoted += c == '\'' ? "'\\''" : std::string(1, c);
    text += fmt::format("{}{}", text.empty() ? "" : " ", plain ? word : quoted + "'");
  }
  return text;
}

std::string own_command() {
  std::ifstream in("/proc/self/cmdline", std::ios::binary);
  std::string word;
  std::getline(in, word, '\0');
  return word.empty() ? "tandem" : word;
}

std::string report_hint(const fs::path& bin_dir, const std::string& run) {
  return fmt::format("report: {}",
                     shell_command({report_program(bin_dir).value_or("tandem-report"), "report", run}));
}

namespace {

/// One sweep, planned, into its folder.
ExitCode run_planned(const RunArgs& args, RunPlan plan) {
  Session session(args, std::move(plan));
  const RunFolder& folder = session.folder();
  try {
    session.prepare();
    remark(fmt::format("{} cases, {} skipped, {} worker{}, engine {}{}; {}",
                       session.plan().sweep.cases.size(), session.plan().sweep.skipped.size(),
                       session.plan().workers, session.plan().workers == 1 ? "" : "s", session.plan().engine,
                       session.plan().card ? " on " + session.plan().card->name : "", args.out));
    session.run();
  } catch (const Interrupted&) {
    if (!folder.environment().is_null()) folder.derive_benchmark_json();
    throw Interrupted(fmt::format("interrupted with {} records; continue with: {}", folder.records().size(),
                                  resume_command(args)));
  } catch (const IoError& e) {
    throw IoError(fmt::format("{}; the {} records before are kept, continue with: {}", e.what(),
                              folder.records().size(), resume_command(args)));
  }
  if (const std::string table = medians_table(folder.records(), terminal_width(2)); !table.empty())
    remark(table);
  report_beaten(session);
  const auto counts = count_statuses(folder.records());
  remark(fmt::format("{}: {}\n{}", args.out, summary_line(counts), report_hint(args.bin_dir, args.out)));
  fmt::print("{}\n", args.out);
  std::fflush(stdout);
  return exit_code_of(counts, session.plan().sweep);
}

/// A file of gate rules lies beside the sweeps: suites/*.json names it too.
bool is_gate_rules(const std::string& path) {
  std::string text;
  try {
    text = read_file(path);
  } catch (const IoError&) {
    return false;  // said where it is read as a sweep
  }
  const nlohmann::json j = parse_json_or_discard(text);
  return j.is_object() && !j.contains("groups") && j.contains("alpha");
}

}  // namespace

std::vector<PlannedSweep> plan_sweeps(const RunArgs& args, const std::vector<std::string>& sweeps) {
  std::vector<PlannedSweep> planned;
  std::optional<NothingMatches> nothing;
  std::set<std::string> stems;
  for (const std::string& sweep : sweeps) {
    if (sweeps.size() > 1 && is_gate_rules(sweep)) {
      remark(fmt::format("{}: the gate's rules and no sweep, passed over", sweep));
      continue;
    }
    RunArgs one = args;
    one.sweep = sweep;
    if (sweeps.size() > 1 && !args.out.empty()) {
      const std::string stem = fs::path(sweep).stem().string();
      if (!stems.insert(stem).second)
        throw UsageError(fmt::format("--out: two of the sweeps would be runs in {}/{}", args.out, stem));
      one.out = (fs::path(args.out) / stem).string();
      one.resume = args.resume && fs::exists(one.out);
    }
    try {
      planned.push_back({one, plan_run(one)});
    } catch (const NothingMatches& e) {
      if (!nothing) nothing = e;
    }
  }
  if (planned.empty() && nothing) throw NothingMatches(*nothing);
  if (planned.empty()) throw UsageError("SWEEP: no sweep among the files");
  return planned;
}

int run_command(const RunArgs& args, const std::vector<std::string>& sweeps) {
  if (args.resume && args.out.empty()) throw UsageError("--resume: needs --out DIR, the run to continue");
  std::vector<PlannedSweep> planned = plan_sweeps(args, sweeps);
  catch_interrupts();
  std::set<ExitCode> codes;
  for (size_t i = 0; i < planned.size(); ++i) {
    RunArgs& one = planned[i].args;
    if (one.out.empty()) one.out = default_run_folder(one.sweep);
    try {
      codes.insert(run_planned(one, std::move(planned[i].plan)));
    } catch (const Interrupted& e) {
      std::string rest;
      for (size_t j = i + 1; j < planned.size(); ++j) rest += " " + planned[j].args.sweep;
      throw Interrupted(rest.empty() ? e.what() : fmt::format("{}; not begun:{}", e.what(), rest));
    }
  }
  for (const ExitCode code : {ExitCode::kFailed, ExitCode::kGood}) {
    if (codes.contains(code)) return static_cast<int>(code);
  }
  return static_cast<int>(*codes.rbegin());  // for want of a device, where that is so of any
}

}  // namespace tandem
