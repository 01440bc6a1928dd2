// `tandem list`: what a run would do, without doing it.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/driver/ceilings_store.h"
#include "harness/driver/commands.h"
#include "harness/driver/process.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr double kSupportedAllowed_s = 30;

struct Row {
  Case c;
  std::optional<std::string> skipped;
  Prediction predicted;
};

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

/// Asks the engine of each program which cases it cannot compute. One that does not know the question is left alone.
void ask_supported(std::vector<Row>& rows, const RunPlan& plan, const fs::path& bin_dir) {
  std::map<std::vector<std::string>, std::vector<Case>> by_program;
  for (const Row& row : rows) {
    if (!row.skipped) by_program[worker_command(row.c, plan, bin_dir)].push_back(row.c);
  }
  const ScratchFolder scratch;
  std::map<std::string, std::string> reasons;
  for (const auto& [program, cases] : by_program) {
    const fs::path file = scratch.path() / "cases.json";
    write_cases(file, cases);
    std::vector<std::string> command = program;
    command.insert(command.end(), {"--cases", file, "--supported"});
    run_process({.command = command,
                 .on_line =
                     [&](const std::string& text) {
                       const json line = parse_json_or_discard(text);
                       if (!line.is_object() || line.value("status", json()) != "skipped") return;
                       const json reason = line.value("reason", json());
                       reasons[line.value("id", "")] =
                           reason.is_string() ? reason.get<std::string>() : "not supported";
                     },
                 .allowed_s = [] { return kSupportedAllowed_s; }});
  }
  for (Row& row : rows) {
    const auto it = reasons.find(case_id(row.c));
    if (!row.skipped && it != reasons.end()) row.skipped = it->second;
  }
}

void print_table(const std::vector<Row>& rows, int workers) {
  size_t width = 4;
  for (const Row& row : rows) width = std::max(width, case_name(row.c).size());
  fmt::print("{:<16}  {:<{}}  {:>10}  {:>10}  {}\n", "id", "name", width, "floor", "predicted", "skipped");
  for (const Row& row : rows) {
    const Prediction& p = row.predicted;
    const std::string floor = p.floor_us && !row.skipped ? show_us(*p.floor_us) : "-";
    const std::string time = row.skipped ? "-" : show_duration(p.validate_s + workers * p.measure_s);
    fmt::print("{:<16}  {:<{}}  {:>10}  {:>10}  {}\n", case_id(row.c), case_name(row.c), width, floor, time,
               row.skipped.value_or(""));
  }
}

void print_json(const std::vector<Row>& rows, int workers) {
  json list = json::array();
  for (const Row& row : rows) {
    const Prediction& p = row.predicted;
    list.push_back({{"id", case_id(row.c)},
                    {"name", case_name(row.c)},
                    {"case", case_to_json(row.c)},
                    {"floor_us", p.floor_us && !row.skipped ? json(*p.floor_us) : json()},
                    {"predicted_s", row.skipped ? json() : json(p.validate_s + workers * p.measure_s)},
                    {"skipped", row.skipped ? json(*row.skipped) : json()}});
  }
  fmt::print("{}\n", list.dump(1));
}

}  // namespace

int list_command(const RunArgs& args, bool as_json) {
  const RunPlan plan = plan_run(args);
  std::vector<Row> rows;
  for (const Case& c : plan.sweep.cases) rows.push_back({c, std::nullopt, {}});
  for (const SkippedCase& s : plan.sweep.skipped) rows.push_back({s.c, s.reason, {}});
  ask_supported(rows, plan, args.bin_dir);

  const auto ceilings = stored_ceilings(plan.engine == "reference" ? std::nullopt : plan.card);
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  double total_s = 0;
  int skipped = 0;
  for (Row& row : rows) {
    const bool apply = row.c.engine != "reference" || plan.engine == "reference";
    try {
      row.predicted = predict(row.c, {.ceilings = apply ? ceilings : std::nullopt, .cores = cores});
    } catch (const ImpossibleCase&) {
      // Skipped anyway: such lengths have no cost.
    }
    skipped += row.skipped ? 1 : 0;
    if (!row.skipped) total_s += row.predicted.validate_s + plan.workers * row.predicted.measure_s;
  }
  if (as_json) {
    print_json(rows, plan.workers);
  } else {
    print_table(rows, plan.workers);
  }
  say(fmt::format("{} cases, {} skipped, {} worker{}, engine {}, about {}{}", rows.size() - skipped, skipped,
                  plan.workers, plan.workers == 1 ? "" : "s", plan.engine, show_duration(total_s),
                  ceilings ? "" : "; no ceilings measured yet (`tandem run` does), so no floors"));
  return static_cast<int>(ExitCode::kGood);
}

}  // namespace tandem
