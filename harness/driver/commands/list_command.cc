// `tandem list`: what a run would do, without doing it.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <thread>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/base/process.h"
#include "harness/driver/commands/commands.h"
#include "harness/driver/session/ceilings_store.h"
#include "harness/driver/talk/terminal.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr double kSupportedAllowed_s = 30;

/// What a run records of a case that it does not time.
struct Untimed {
  Status status = Status::kSkipped;
  std::string reason = {};
};

struct Row {
  Case c;
  int workers = 1;
  std::optional<Untimed> untimed = {};
  Prediction predicted = {};

  double predicted_s() const { return predicted.validate_s + workers * predicted.measure_s; }
};

struct Answer {
  std::string id;
  Untimed untimed;
};

/// What a line of an engine's listing says of a case that would not be timed; nothing where it says anything else. Throws
/// Error, naming `who`, for an answer whose id is no text.
std::optional<Answer> answer_of(const std::string& text, const std::string& who) {
  const json line = parse_json_or_discard(text);
  if (!line.is_object() || !line.contains("id") || !line.contains("status")) return std::nullopt;
  const json& id = line["id"];
  if (!id.is_string()) {
    throw Error(fmt::format("{}: --supported: id: {} is not allowed; a case's id as text", who, shown(id)));
  }
  const json reason = line.value("reason", json());
  for (const Status status : {Status::kSkipped, Status::kOom, Status::kError}) {
    if (line["status"] != json(status_name(status))) continue;
    return Answer{id, {status, reason.is_string() ? reason.get<std::string>() : "no reason was given"}};
  }
  return std::nullopt;
}

class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (fs::temp_directory_path() / "tandem-list.XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw IoError(fmt::format("cannot make a folder like {}", name));
    path_ = name;
  }
  ~ScratchFolder() {
    std::error_code ec;
    fs::remove_all(path_, ec);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// Asks the engine of each program which cases it cannot compute. One that does not know the question is left alone. Throws
/// Error for an answer that does not keep the protocol.
void ask_supported(std::vector<Row>& rows, const RunPlan& plan, const fs::path& bin_dir) {
  std::map<std::vector<std::string>, std::vector<Case>> by_program;
  for (const Row& row : rows) {
    if (!row.untimed) by_program[worker_command(row.c, plan, bin_dir)].push_back(row.c);
  }
  const ScratchFolder scratch;
  std::map<std::string, Untimed> refused;
  for (const auto& [program, cases] : by_program) {
    const std::string who = plan.peers.contains(cases[0].engine)
                                ? fmt::format("peer '{}'", cases[0].engine)
                                : fmt::format("suite_{}", suite_name(cases[0].suite));
    const fs::path file = scratch.path() / "cases.json";
    write_cases(file, cases);
    std::vector<std::string> command = program;
    command.insert(command.end(), {"--cases", file, "--supported"});
    run_process({.command = command,
                 .on_line =
                     [&](const std::string& text) {
                       if (const auto answer = answer_of(text, who)) refused[answer->id] = answer->untimed;
                     },
                 .allowed_s = [] { return kSupportedAllowed_s; }});
  }
  for (Row& row : rows) {
    const auto it = refused.find(case_id(row.c));
    if (!row.untimed && it != refused.end()) row.untimed = it->second;
  }
}

void print_table(const std::vector<Row>& rows) {
  std::vector<std::string> names;
  for (const Row& row : rows) names.push_back(case_name(row.c));
  const auto width = terminal_width(1);
  const size_t longest = std::max_element(names.begin(), names.end(), [](const auto& a, const auto& b) {
                           return a.size() < b.size();
                         })->size();
  const auto floor = [](const Row& row) {
    return row.predicted.floor_us && !row.untimed ? show_us(*row.predicted.floor_us) : "-";
  };
  const auto time = [](const Row& row) { return row.untimed ? "-" : show_duration(row.predicted_s()); };
  const auto why = [](const Row& row) {
    return row.untimed ? fmt::format("{}: {}", status_name(row.untimed->status), row.untimed->reason) : "";
  };
  constexpr size_t kNumbers = 16 + 2 + 2 + 10 + 2 + 10 + 2;
  if (!width || longest + kNumbers + 25 <= *width) {
    fmt::print("{:<16}  {:<{}}  {:>10}  {:>10}  {}\n", "id", "name", longest, "floor", "predicted",
               "recorded without a time as");
    for (size_t i = 0; i < rows.size(); ++i) {
      fmt::print("{:<16}  {:<{}}  {:>10}  {:>10}  {}\n", case_id(rows[i].c), names[i], longest,
                 floor(rows[i]), time(rows[i]), why(rows[i]));
    }
    return;
  }
  // Folded: numbers first, names without what all share, and no ids, which --json has.
  constexpr size_t kIndent = 10 + 2 + 10 + 2;
  const ShortNames shorter = shorten(names);
  if (!shorter.shared.empty()) fmt::print("{}\n", wrapped("all: " + shorter.shared, *width, 5, '/'));
  fmt::print("{:>10}  {:>10}  {}\n", "floor", "predicted", "name");
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::string numbers = fmt::format("{:>10}  {:>10}  ", floor(rows[i]), time(rows[i]));
    fmt::print("{}\n", wrapped(numbers + shorter.names[i], *width, kIndent, '/'));
    if (rows[i].untimed)
      fmt::print("{}\n", wrapped(std::string(kIndent, ' ') + why(rows[i]), *width, kIndent));
  }
}

void print_json(const std::vector<Row>& rows) {
  json list = json::array();
  for (const Row& row : rows) {
    const Prediction& p = row.predicted;
    list.push_back({{"id", case_id(row.c)},
                    {"name", case_name(row.c)},
                    {"case", case_to_json(row.c)},
                    {"floor_us", p.floor_us && !row.untimed ? json(*p.floor_us) : json()},
                    {"predicted_s", row.untimed ? json() : json(row.predicted_s())},
                    {"recorded_as", row.untimed ? json(status_name(row.untimed->status)) : json()},
                    {"reason", row.untimed ? json(row.untimed->reason) : json()}});
  }
  fmt::print("{}\n", list.dump(1));
}

}  // namespace

int list_command(const RunArgs& args, const std::vector<std::string>& sweeps, bool as_json) {
  const std::vector<PlannedSweep> planned = plan_sweeps(args, sweeps);
  const RunPlan& first = planned[0].plan;  // engine and card are those of all
  const auto ceilings = stored_ceilings(ceilings_card(first));
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  std::vector<Row> rows;
  std::set<int> workers;
  for (const auto& [one, plan] : planned) {
    std::vector<Row> of_sweep;
    for (const Case& c : plan.sweep.cases) of_sweep.push_back({.c = c, .workers = plan.workers});
    for (const SkippedCase& s : plan.sweep.skipped)
      of_sweep.push_back({.c = s.c, .workers = plan.workers, .untimed = Untimed{Status::kSkipped, s.reason}});
    ask_supported(of_sweep, plan, args.bin_dir);
    for (Row& row : of_sweep) {
      try {
        row.predicted = predict(
            row.c, {.ceilings = ceilings_apply(row.c, plan) ? ceilings : std::nullopt, .cores = cores});
      } catch (const ImpossibleCase&) {
        // Skipped anyway: such lengths have no cost.
      }
    }
    rows.insert(rows.end(), of_sweep.begin(), of_sweep.end());
    workers.insert(plan.workers);
  }
  double total_s = 0;
  std::map<Status, int> untimed = {{Status::kSkipped, 0}};
  size_t timed = 0;
  for (const Row& row : rows) {
    if (row.untimed) {
      ++untimed[row.untimed->status];
      continue;
    }
    ++timed;
    total_s += row.predicted_s();
  }
  if (as_json) {
    print_json(rows);
  } else {
    print_table(rows);
  }
  if (ceilings && !ceilings->doubt.empty())
    say(fmt::format("floors are in question, and the next run measures their ceilings again: {}",
                    ceilings->doubt));
  std::string counts;
  for (const auto& [status, n] : untimed) counts += fmt::format(", {} {}", n, status_name(status));
  say(fmt::format("{} cases{}, {} worker{}, engine {}, about {}{}", timed, counts, fmt::join(workers, " or "),
                  workers == std::set<int>{1} ? "" : "s", first.engine, show_duration(total_s),
                  ceilings ? "" : "; no ceilings measured yet (`tandem run` does), so no floors"));
  return static_cast<int>(ExitCode::kGood);
}

}  // namespace tandem
