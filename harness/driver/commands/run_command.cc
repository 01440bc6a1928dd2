// `tandem run`.
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <set>

#include "harness/base/error.h"
#include "harness/base/process.h"
#include "harness/driver/commands/commands.h"
#include "harness/driver/session/ceilings_store.h"
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
  std::vector<std::string> words = {"tandem", "run", args.sweep, "--out", args.out, "--resume"};
  if (args.engine != "auto") words.insert(words.end(), {"--engine", args.engine});
  for (const std::string& peer : args.peers) words.insert(words.end(), {"--peer", peer});
  if (!args.filter.empty()) words.insert(words.end(), {"--filter", args.filter});
  if (!args.shard.empty()) words.insert(words.end(), {"--shard", args.shard});
  if (args.device != 0) words.insert(words.end(), {"--device", std::to_string(args.device)});
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

int run_command(const RunArgs& given) {
  RunArgs args = given;
  if (args.resume && args.out.empty()) throw UsageError("--resume: needs --out DIR, the run to continue");
  RunPlan plan = plan_run(args);
  if (args.out.empty()) args.out = default_run_folder(args.sweep);
  catch_interrupts();

  Session session(args, std::move(plan));
  const RunFolder& folder = session.folder();
  try {
    session.prepare();
    say(fmt::format("{} cases, {} skipped, {} worker{}, engine {}{}; {}", session.plan().sweep.cases.size(),
                    session.plan().sweep.skipped.size(), session.plan().workers,
                    session.plan().workers == 1 ? "" : "s", session.plan().engine,
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
  report_beaten(session);
  const auto counts = count_statuses(folder.records());
  say(fmt::format("{}: {}\nreport: tandem-report report {}", args.out, summary_line(counts),
                  shell_command({args.out})));
  fmt::print("{}\n", args.out);
  return static_cast<int>(exit_code_of(counts, session.plan().sweep));
}

}  // namespace tandem
