#include "harness/driver/commands/profile_passes.h"

#include <fmt/format.h>

#include <map>

#include "harness/base/error.h"
#include "harness/driver/session/profiles.h"
#include "harness/record/json_schema.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr double kPassAllowed_s = 120;

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

}  // namespace

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

ProfilePasses::ProfilePasses(const RunArgs& args, const Session& session)
    : args_(args), session_(session), log_(session.folder().path() / kProfilesFile) {
  const json ceilings = session.folder().environment().value("ceilings", json());
  ceilings_ = session.folder().scratch() / "profile-ceilings.json";
  if (ceilings.is_object() && contradictions(ceilings.get<Ceilings>()).empty())
    write_file_atomic(ceilings_, ceilings.dump() + "\n");
}

void ProfilePasses::run(const std::vector<Profiled>& cases, ProfilePass pass) {
  std::map<std::string, std::vector<const Profiled*>> groups;
  for (const Profiled& p : cases) groups[group_key(p.c)].push_back(&p);
  for (const auto& [key, group] : groups) run_group(group, pass);
}

void ProfilePasses::run_group(const std::vector<const Profiled*>& group, ProfilePass pass) {
  std::vector<WorkerTask> tasks;
  std::map<std::string, const Profiled*> by_id;
  for (const Profiled* p : group) {
    tasks.push_back({p->c, p->id, args_.timeout_s.value_or(kPassAllowed_s)});
    by_id[p->id] = p;
  }
  const std::vector<std::string> program =
      in_environment(worker_command(group[0]->c, session_.plan(), args_.bin_dir), args_.environment);
  std::vector<std::string> flags = {"--profile", std::string(pass_name(pass)),
                                    "--out",     session_.folder().path(),
                                    "--device",  std::to_string(args_.device)};
  if (args_.level1_bytes) flags.insert(flags.end(), {"--level1-bytes", std::to_string(*args_.level1_bytes)});
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

void ProfilePasses::take(const TaskOutcome& outcome, const Profiled& subject, ProfilePass pass) {
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
  status == "ok" ? remark(line_text(line)) : say(line_text(line));
}

}  // namespace tandem
