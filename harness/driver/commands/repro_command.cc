// `tandem repro`: the command of a record, run again.
#include <fmt/format.h>

#include <filesystem>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/base/process.h"
#include "harness/driver/commands/commands.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr double kReproAllowed_s = 3600;

Record record_of_run(const fs::path& run, const std::string& id) {
  std::optional<Record> found;
  for (const Record& r : read_records(run / "records.jsonl", nullptr)) {
    if (id.empty() || !r.id.starts_with(id)) continue;
    if (found && found->id != r.id) {
      throw UsageError(fmt::format("'{}' is the start of more than one id in {}", id, run.string()));
    }
    if (!found || (found->status != Status::kOk && r.status == Status::kOk)) found = r;
  }
  if (!found) throw UsageError(fmt::format("{} has no record of '{}'", run.string(), id));
  return *found;
}

Record find_record(const std::string& what) {
  if (fs::is_regular_file(what)) {
    try {
      return record_from_json(parse_json(read_file(what)));
    } catch (const UsageError& e) {
      throw UsageError(fmt::format("{}: not one record in JSON ({}); for a run give RUN:ID", what, e.what()));
    }
  }
  const size_t colon = what.rfind(':');
  if (colon == std::string::npos || !fs::is_directory(what.substr(0, colon))) {
    throw UsageError(
        fmt::format("'{}' is neither a file with a record nor RUN:ID (a run folder and an id)", what));
  }
  return record_of_run(what.substr(0, colon), what.substr(colon + 1));
}

/// The median of the only benchmark in a suite's JSON.
double median_of(const std::string& text) {
  const json out = parse_json_or_discard(text);
  if (!out.is_object()) throw Error("the suite printed no JSON");
  if (out["benchmarks"].size() == 1) return out["benchmarks"][0].at("real_time").get<double>();
  const json& failures = out["failures"];
  const json reason = failures.empty() ? json() : failures[0].value("reason", json());
  throw Error(fmt::format("not measured this time: {}",
                          reason.is_string() ? reason.get<std::string>() : "no reason given"));
}

}  // namespace

std::vector<std::string> suite_command(const Case& c, const fs::path& bin_dir) {
  static const Case defaults;
  std::vector<std::string> words = {bin_dir / fmt::format("suite_{}", suite_name(c.suite))};
  for (const Axis& a : axes()) {
    if (!axis_used(c.suite, c.op, a.name)) continue;
    if (a.always_in_name || a.get(c) != a.get(defaults)) {
      words.insert(words.end(), {fmt::format("--{}", a.name), a.get(c)});
    }
  }
  return words;
}

int repro_command(const ReproArgs& args) {
  const Record r = find_record(args.record);
  if (!is_own_engine(r.c.engine)) {
    throw UsageError(
        fmt::format("the record is of peer '{}', whose command it does not hold; run it with "
                    "`tandem run --peer {}=COMMAND --filter {}`",
                    r.c.engine, r.c.engine, shell_command({r.name})));
  }
  std::vector<std::string> command = suite_command(r.c, args.bin_dir);
  if (r.c.engine == "cuda") command.insert(command.end(), {"--device", std::to_string(args.device)});
  command.emplace_back("--benchmark_format=json");
  fmt::print("{}\n", shell_command(command));
  std::fflush(stdout);

  catch_interrupts();
  std::string text;
  const ProcessEnd end = run_process({.command = command,
                                      .on_line = [&](const std::string& line) { text += line + "\n"; },
                                      .allowed_s = [] { return kReproAllowed_s; }});
  if (end.how == ProcessEnd::How::kInterrupted) throw Interrupted("interrupted");
  if (!end.talk.empty()) say(end.talk);
  if (end.how != ProcessEnd::How::kExited) throw Error(fmt::format("{}: {}", command[0], end.describe()));
  if (text.empty()) return end.code == 0 ? static_cast<int>(ExitCode::kFailed) : end.code;
  const double now = median_of(text);
  if (!r.summary) {
    fmt::print("recorded: {} ({}); now {:.2f} us\n", status_name(r.status), r.reason.value_or("no reason"),
               now);
    return end.code;
  }
  const double then = r.summary->median_us;
  fmt::print("recorded {:.2f} us, now {:.2f} us: {:+.2f} %\n", then, now, (now / then - 1) * 100);
  return end.code;
}

}  // namespace tandem
