// `tandem profile`: a run of the sweep where there is none yet, then the profile passes of its measured cases, each pass in
// processes of its own.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/base/process.h"
#include "harness/driver/commands/commands.h"
#include "harness/driver/commands/profile_passes.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr double kAskAllowed_s = 30;

/// What the run recorded instead of times.
std::string why_unmeasured(const Session& session) {
  for (const Record& r : session.folder().records()) {
    if (r.status != Status::kOk)
      return fmt::format("{}: {}: {}", r.name, status_name(r.status),
                         r.reason.value_or("no reason was given"));
  }
  return "the run has no record of a case of this sweep";
}

/// Why no case can be profiled, asked of one case of each program before anything is measured; nothing where one can.
std::optional<std::string> why_none(const RunPlan& plan, const RunArgs& args, ProfilePass pass) {
  if (plan.sweep.cases.empty()) {
    return plan.sweep.skipped.empty() ? "the sweep has no cases"
                                      : fmt::format("all {} cases are skipped: {}", plan.sweep.skipped.size(),
                                                    plan.sweep.skipped[0].reason);
  }
  std::map<std::vector<std::string>, Case> by_program;
  for (const Case& c : plan.sweep.cases) {
    if (!plan.peers.contains(c.engine)) by_program.try_emplace(worker_command(c, plan, args.bin_dir), c);
  }
  std::string why = "peers are not profiled";
  for (const auto& [program, c] : by_program) {
    std::string name = (fs::temp_directory_path() / "tandem-profile-XXXXXX").string();
    const int fd = ::mkstemp(name.data());
    if (fd < 0) throw IoError(fmt::format("cannot make a file like {}", name));
    ::close(fd);
    write_cases(name, {c});
    std::vector<std::string> command = program;
    command.insert(command.end(),
                   {"--cases", name, "--supported", "--profile", std::string(pass_name(pass))});
    bool can = true;
    run_process({.command = command,
                 .on_line =
                     [&](const std::string& text) {
                       const json line = parse_json_or_discard(text);
                       if (!line.is_object() || line.value("status", json()) != json("unavailable")) return;
                       can = false;
                       const json reason = line.value("reason", json());
                       if (reason.is_string()) why = reason.get<std::string>();
                     },
                 .allowed_s = [] { return kAskAllowed_s; }});
    fs::remove(name);
    if (can) return std::nullopt;
  }
  return why;
}

std::vector<ProfilePass> parse_passes(const std::vector<std::string>& names) {
  std::vector<ProfilePass> passes;
  for (const std::string& name : names) {
    try {
      passes.push_back(parse_pass(name));
    } catch (const UsageError& e) {
      throw UsageError(fmt::format("--passes: {}", e.what()));
    }
  }
  return passes;
}

}  // namespace

int profile_command(const RunArgs& given, const std::vector<std::string>& pass_names) {
  const std::vector<ProfilePass> passes = parse_passes(pass_names);
  RunArgs args = given;
  if (args.out.empty()) args.out = default_run_folder(args.sweep);
  args.resume = fs::exists(fs::path(args.out) / "environment.json");
  if (!args.workers) args.workers = 1;
  RunPlan plan = plan_run(args);
  catch_interrupts();
  if (const auto why = why_none(plan, args, passes.front()))
    throw DeviceError(fmt::format("profile: nothing can be profiled: {}", *why));
  Session session(args, std::move(plan));
  session.prepare();
  session.run();
  const std::vector<Profiled> cases = measured_cases(session);
  remark(fmt::format("{} measured cases to profile, passes {}; {}", cases.size(), fmt::join(pass_names, " "),
                     args.out));
  if (cases.empty()) say(fmt::format("nothing to profile: {}", why_unmeasured(session)));

  ProfilePasses profiles(args, session);
  for (const ProfilePass pass : passes) profiles.run(cases, pass);
  session.folder().derive_benchmark_json();
  remark(fmt::format("{}: {} profiles, {} failed, {} not available\n{}", args.out, profiles.taken(),
                     profiles.failed(), profiles.unavailable(), report_hint(args.bin_dir, args.out)));
  fmt::print("{}\n", args.out);
  if (profiles.failed() > 0) return static_cast<int>(ExitCode::kFailed);
  if (profiles.taken() > 0) return static_cast<int>(ExitCode::kGood);
  return static_cast<int>(session.plan().card ? ExitCode::kFailed : ExitCode::kNoDevice);
}

}  // namespace tandem
