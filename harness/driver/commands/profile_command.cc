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
#include "harness/driver/session/profiles.h"
#include "harness/record/json_schema.h"
#include "harness/run/profile.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr double kPassAllowed_s = 120;
constexpr double kAskAllowed_s = 30;

struct Profiled {
  Case c;
  std::string id;
  double timed_us = 0;  ///< median of the timed workers' medians
};

/// The measured cases of the run that an engine of Tandem's own computed.
std::vector<Profiled> measured_cases(const Session& session) {
  std::map<std::string, std::vector<float>> medians;
  std::map<std::string, Case> cases;
  for (const Record& r : session.folder().records()) {
    if (r.status != Status::kOk || !r.summary || session.plan().peers.contains(r.c.engine)) continue;
    medians[r.id].push_back(static_cast<float>(r.summary->median_us));
    cases.emplace(r.id, r.c);
  }
  std::vector<Profiled> found;
  for (const Case& c : session.plan().sweep.cases) {
    const std::string id = case_id(c);
    if (medians.contains(id)) found.push_back({c, id, summarize(medians[id]).median_us});
  }
  return found;
}

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

std::string percent(const json& line, const char* field) {
  const json value = line.value(field, json());
  return value.is_number() ? fmt::format("{:+.2f} %", 100 * value.get<double>()) : "unknown";
}

/// What a line says, for people.
std::string line_text(const json& line) {
  const std::string status = line.value("status", "error");
  std::string text = fmt::format("{}  {}: ", line.value("name", "?"), line.value("pass", "?"));
  if (status != "ok") {
    const json reason = line.value("reason", json());
    text +=
        fmt::format("{}: {}", status, reason.is_string() ? reason.get<std::string>() : "no reason was given");
    if (status != "incomplete") return text;
    text += "; ";
  }
  if (line.contains("slowdown")) {
    text += fmt::format(
        "tracing slows it by {} in the same process, {} beside the timed one; as traced: busy {} + gaps {} "
        "of {}",
        percent(line, "slowdown"), percent(line, "slowdown_timed"), show_us(line["busy_us"]),
        show_us(line["gaps_us"]), show_us(line["event_us"]));
    if (line["gpu_busy_attributed"].is_number())
      text += fmt::format(", {:.2f} % attributed", 100 * line["gpu_busy_attributed"].get<double>());
  } else if (line.contains("joules_per_repetition")) {
    text += line["joules_per_token"].is_number()
                ? fmt::format("{:.4g} J a token", line["joules_per_token"].get<double>())
                : fmt::format("{:.4g} J a repetition", line["joules_per_repetition"].get<double>());
    text +=
        fmt::format(", {:.0f} W over {:.1f} s", line["watts"].get<double>(), line["seconds"].get<double>());
  } else if (line.contains("ranges")) {
    text += fmt::format("{} ranges, {} passes", line["ranges"].size(), line["passes"].get<int>());
  }
  return text;
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

class ProfilePasses {
 public:
  ProfilePasses(const RunArgs& args, const Session& session)
      : args_(args), session_(session), log_(session.folder().path() / kProfilesFile) {
    const json ceilings = session.folder().environment().value("ceilings", json());
    ceilings_ = session.folder().scratch() / "profile-ceilings.json";
    if (ceilings.is_object() && contradictions(ceilings.get<Ceilings>()).empty())
      write_file_atomic(ceilings_, ceilings.dump() + "\n");
  }

  void run(const std::vector<Profiled>& cases, ProfilePass pass) {
    std::map<std::string, std::vector<const Profiled*>> groups;
    for (const Profiled& p : cases) groups[group_key(p.c)].push_back(&p);
    for (const auto& [key, group] : groups) run_group(group, pass);
  }

  int taken() const { return taken_; }
  int failed() const { return failed_; }
  int unavailable() const { return unavailable_; }

 private:
  void run_group(const std::vector<const Profiled*>& group, ProfilePass pass) {
    std::vector<WorkerTask> tasks;
    std::map<std::string, const Profiled*> by_id;
    for (const Profiled* p : group) {
      tasks.push_back({p->c, p->id, args_.timeout_s.value_or(kPassAllowed_s)});
      by_id[p->id] = p;
    }
    const std::vector<std::string> program = worker_command(group[0]->c, session_.plan(), args_.bin_dir);
    std::vector<std::string> flags = {"--profile", std::string(pass_name(pass)),
                                      "--out",     session_.folder().path(),
                                      "--device",  std::to_string(args_.device)};
    if (args_.level1_bytes)
      flags.insert(flags.end(), {"--level1-bytes", std::to_string(*args_.level1_bytes)});
    if (fs::exists(ceilings_)) flags.insert(flags.end(), {"--ceilings", ceilings_});
    run_workers(tasks,
                {.command =
                     [&](const fs::path& file, int) {
                       std::vector<std::string> command = program;
                       command.insert(command.end(), {"--cases", file});
                       command.insert(command.end(), flags.begin(), flags.end());
                       return command;
                     },
                 .scratch = session_.folder().scratch()},
                [&](const TaskOutcome& outcome) { take(outcome, *by_id.at(outcome.task.id), pass); });
  }

  void take(const TaskOutcome& outcome, const Profiled& subject, ProfilePass pass) {
    json line = outcome.line;
    if (line.is_null()) line = {{"status", status_name(outcome.status)}, {"reason", outcome.reason}};
    line["schema"] = kProfileSchema;
    line["id"] = subject.id;
    line["name"] = case_name(subject.c);
    line["pass"] = pass_name(pass);
    line["timed_us"] = subject.timed_us;
    const json traced = line.value("traced_us", json());
    if (traced.is_number()) line["slowdown_timed"] = traced.get<double>() / subject.timed_us - 1;
    if (const auto error = schema_error(profile_schema(), line)) {
      line = {{"schema", kProfileSchema},
              {"id", subject.id},
              {"name", case_name(subject.c)},
              {"pass", pass_name(pass)},
              {"status", "error"},
              {"timed_us", subject.timed_us},
              {"reason", fmt::format("the worker's line does not keep the protocol: {}", *error)}};
    }
    log_.append(line.dump(-1, ' ', false, json::error_handler_t::replace));
    const std::string status = line.value("status", "error");
    ++(status == "ok" ? taken_ : status == "unavailable" || status == "skipped" ? unavailable_ : failed_);
    say(line_text(line));
  }

  const RunArgs& args_;
  const Session& session_;
  LineLog log_;
  fs::path ceilings_;
  int taken_ = 0, failed_ = 0, unavailable_ = 0;
};

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
  say(fmt::format("{} measured cases to profile, passes {}; {}", cases.size(), fmt::join(pass_names, " "),
                  args.out));
  if (cases.empty()) say(fmt::format("nothing to profile: {}", why_unmeasured(session)));

  ProfilePasses profiles(args, session);
  for (const ProfilePass pass : passes) profiles.run(cases, pass);
  session.folder().derive_benchmark_json();
  say(fmt::format("{}: {} profiles, {} failed, {} not available\nreport: tandem-report report {}", args.out,
                  profiles.taken(), profiles.failed(), profiles.unavailable(), shell_command({args.out})));
  fmt::print("{}\n", args.out);
  if (profiles.failed() > 0) return static_cast<int>(ExitCode::kFailed);
  if (profiles.taken() > 0) return static_cast<int>(ExitCode::kGood);
  return static_cast<int>(session.plan().card ? ExitCode::kFailed : ExitCode::kNoDevice);
}

}  // namespace tandem
