#include "harness/driver/session/session.h"

#include <fmt/format.h>

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <set>
#include <sstream>
#include <thread>

#include "harness/base/error.h"
#include "harness/base/process.h"
#include "harness/base/random.h"
#include "harness/base/sha256.h"
#include "harness/driver/session/build_of.h"
#include "harness/driver/session/ceilings_store.h"
#include "harness/memory/level1_cache.h"
#include "harness/record/environment.h"
#include "harness/run/case_cost.h"
#include "harness/run/validate.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

/// The command and the files that it names: a script that was edited is another build.
std::string peer_sha256(const std::string& command) {
  Sha256 hash;
  hash.update(command);
  std::istringstream words(command);
  for (std::string word; words >> word;) {
    if (fs::is_regular_file(word)) hash.update(content_sha256(word));
  }
  return hash.hex();
}

/// Of a case in a process, which the first one there starts and loads.
Work check_work(const Prediction& p, bool first) {
  return {.start_s = first ? p.start_s + p.accuracy_s + 2 * p.load_s : 0, .own_s = p.validate_s};
}
Work time_work(const Prediction& p, bool first) {
  return {.start_s = first ? p.start_s + p.load_s : 0, .own_s = p.measure_s};
}

template <typename Item>
std::vector<std::vector<const Item*>> groups_of(const std::vector<const Item*>& items) {
  std::map<std::string, std::vector<const Item*>> by_key;
  for (const Item* item : items) by_key[group_key(item->c)].push_back(item);
  std::vector<std::vector<const Item*>> groups;
  for (auto& [key, group] : by_key) groups.push_back(std::move(group));
  return groups;
}

/// Orders are drawn from our own generator: std::shuffle may differ from one library to the next.
template <typename T>
void shuffle(std::vector<T>& list, uint64_t key) {
  for (size_t i = list.size(); i > 1; --i) {
    std::swap(list[i - 1], list[uniform_below(key, i, static_cast<uint32_t>(i))]);
  }
}

}  // namespace

Session::Session(const RunArgs& args, RunPlan plan)
    : args_(args), plan_(std::move(plan)), folder_(args.out, args.resume) {
  Level1Cache::remove_leftovers();
}

Session::~Session() {
  Level1Cache::remove({.run_dir = args_.out});
}

void Session::hash_binaries() {
  for (const Case& c : plan_.sweep.cases) {
    const auto peer = plan_.peers.find(c.engine);
    const fs::path binary = args_.bin_dir / fmt::format("suite_{}", suite_name(c.suite));
    const std::string name = peer == plan_.peers.end() ? binary.filename().string() : c.engine;
    if (!binaries_.contains(name)) {
      binaries_[name] = peer == plan_.peers.end() ? content_sha256(binary) : peer_sha256(peer->second);
    }
    items_.push_back({.c = c, .id = case_id(c), .predicted = {}, .binary_sha256 = binaries_[name]});
  }
}

json Session::environment() const {
  json environment = capture_environment({.sweep = SweepRef{args_.sweep, plan_.sweep_sha256, plan_.workers},
                                          .binaries = binaries_,
                                          .device = plan_.card,
                                          .ceilings = ceilings_ ? json(*ceilings_) : json(),
                                          .build = build_of(args_.bin_dir)});
  environment["engine"] = plan_.engine;
  for (const auto& [name, value] : args_.environment) environment["env"][name] = value;
  return environment;
}

void Session::prepare() {
  hash_binaries();
  const bool resumed = !folder_.environment().is_null();
  if (!resumed && !items_.empty()) {
    ceilings_ = obtain_ceilings(args_.bin_dir, ceilings_card(plan_), args_.device);
  }
  seed_ = args_.seed ? *args_.seed : std::random_device{}();
  folder_.open(environment());
  // What this build would be judged by as a base lies with its runs: tandem-report gate takes it from A's.
  const fs::path rules = kept_suite_file(args_.bin_dir, "gates.json");
  if (!resumed && !rules.empty()) write_file_atomic(folder_.path() / "gates.json", read_file(rules));
  const json& kept = folder_.environment().at("ceilings");
  if (resumed && kept.is_object()) {
    ceilings_ = kept.get<Ceilings>();
    if (!contradictions(*ceilings_).empty()) ceilings_.reset();  // of a version that kept such
  }
  if (ceilings_) write_file_atomic(folder_.scratch() / "ceilings.json", json(*ceilings_).dump(1) + "\n");

  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  for (Item& item : items_) {
    item.predicted = predict(
        item.c, {.ceilings = ceilings_apply(item.c, plan_) ? ceilings_ : std::nullopt, .cores = cores});
  }
}

void Session::add_failed(const Case& c, Status status, const std::optional<std::string>& reason,
                         const std::optional<Check>& check) {
  Record r = make_record(c, 0, 1);
  r.status = status;
  r.reason = reason.value_or("no reason was given");
  r.check = check;
  folder_.add(r);
}

void Session::record_skipped() {
  for (const SkippedCase& s : plan_.sweep.skipped) {
    if (!folder_.settled(case_id(s.c), 0)) add_failed(s.c, Status::kSkipped, s.reason, {});
  }
}

double Session::timeout_s(double predicted_s) const {
  return args_.timeout_s.value_or(default_timeout_s(predicted_s));
}

WorkerCall Session::call_for(const Case& c, std::vector<std::string> flags) const {
  const std::vector<std::string> command =
      in_environment(worker_command(c, plan_, args_.bin_dir), args_.environment);
  flags.insert(flags.end(), {"--out", folder_.path(), "--device", std::to_string(args_.device)});
  if (args_.level1_bytes) flags.insert(flags.end(), {"--level1-bytes", std::to_string(*args_.level1_bytes)});
  return {.command =
              [command, flags](const fs::path& cases, int attempt) {
                std::vector<std::string> all = command;
                all.insert(all.end(), {"--cases", cases});
                all.insert(all.end(), flags.begin(), flags.end());
                const bool timed = std::find(flags.begin(), flags.end(), "--validate") == flags.end();
                if (timed) all.insert(all.end(), {"--attempt", std::to_string(attempt)});
                return all;
              },
          .scratch = folder_.scratch()};
}

bool Session::validated(const Item& item) const {
  const Validation* v = folder_.validation(item.id, item.binary_sha256);
  return v != nullptr && v->status == Status::kOk;
}

void Session::take_validation(const Item& item, const TaskOutcome& outcome, const Work& predicted,
                              Progress& progress) {
  Validation v;
  v.id = item.id;
  if (outcome.line.is_null()) {
    // Not remembered as a validation: there is none.
    v.status = outcome.status;
    v.reason = fmt::format("in the validation pass: {}", outcome.reason);
  } else {
    try {
      v = validation_from_json(outcome.line);
      if (v.status == Status::kOk && !v.check) throw UsageError("status ok without a check");
      const auto fault = accuracy_fault(item.c, v.accuracy);
      if (v.status == Status::kOk && fault) throw UsageError(*fault);
    } catch (const Error& e) {
      v.status = Status::kError;
      v.reason = fmt::format("the validation pass does not keep the protocol: {}", e.what());
    }
    folder_.add_validation(v, item.binary_sha256);
    if (memory_ && remembers(item)) memory_->keep(item.binary_sha256, v);
  }
  if (v.status != Status::kOk) {
    progress.dropped(plan_.workers, plan_.workers * item.predicted.measure_s);
    add_failed(item.c, v.status, v.reason, v.check);
  }
  progress.checked(case_name(item.c), v.status, v.reason.value_or(""), predicted);
}

void Session::validate_group(const std::vector<const Item*>& group, Progress& progress) {
  if (group.empty()) return;
  std::vector<WorkerTask> tasks;
  std::map<std::string, const Item*> by_id;
  for (const Item* item : group) {
    const Prediction& p = item->predicted;
    tasks.push_back({item->c, item->id, timeout_s(p.validate_s + p.accuracy_s + 2 * p.load_s)});
    by_id[item->id] = item;
  }
  run_workers(tasks, call_for(group[0]->c, {"--validate"}), [&](const TaskOutcome& outcome) {
    const Item* item = by_id.at(outcome.task.id);
    take_validation(*item, outcome, check_work(item->predicted, item == group[0]), progress);
  });
  if (memory_ && remembers(*group[0])) memory_->take_in(group[0]->binary_sha256, folder_.path());
}

/// May the check of the case be taken from an earlier run? A peer's build is not known, and ranks measure their ways to speak
/// anew in every run, which may change the last bits.
bool Session::remembers(const Item& item) const {
  return !plan_.peers.contains(item.c.engine) && item.c.tp * item.c.dp == 1;
}

/// Puts into the run what earlier ones have checked.
void Session::recall() {
  memory_.emplace(user_cache_dir().empty() ? fs::path() : user_cache_dir() / "checks",
                  check_place(folder_.environment(), machine_label(ceilings_card(plan_))), args_.check_again);
  int recalled = 0, unknown = 0;
  std::set<std::string> binaries;
  for (const Item& item : items_) {
    if (folder_.validation(item.id, item.binary_sha256) != nullptr || folder_.settled(item.id, 0)) continue;
    const auto v = remembers(item) ? memory_->find(item.binary_sha256, item.id) : std::nullopt;
    if (!v || accuracy_fault(item.c, v->accuracy)) {
      ++unknown;
      continue;
    }
    if (binaries.insert(item.binary_sha256).second) memory_->hand_out(item.binary_sha256, folder_.path());
    folder_.add_validation(*v, item.binary_sha256);
    ++recalled;
  }
  if (recalled > 0) {
    remark(fmt::format(
        "{} of {} checks are remembered from earlier runs of this build; --check-again makes them anew",
        recalled, recalled + unknown));
  }
}

/// Of these the items that the validation pass has not seen.
std::vector<const Session::Item*> Session::unchecked(const std::vector<const Item*>& items) {
  std::vector<const Item*> todo;
  for (const Item* item : items) {
    const Validation* known = folder_.validation(item->id, item->binary_sha256);
    const bool settled = folder_.settled(item->id, 0);
    if (known == nullptr && !settled) todo.push_back(item);
    // Killed between the two lines.
    if (known != nullptr && known->status != Status::kOk && !settled) {
      add_failed(item->c, known->status, known->reason, known->check);
    }
  }
  return todo;
}

void Session::complete(Record& r, const Item& item) const {
  r.order_seed = seed_;
  if (r.status != Status::kOk) return;
  const Validation& v = *folder_.validation(item.id, item.binary_sha256);
  if (!r.check) r.check = v.check;
  if (!r.accuracy) r.accuracy = v.accuracy;
  if (!r.flops && !r.bytes && is_model_suite(r.c.suite)) {
    const Ceilings ceilings = ceilings_apply(r.c, plan_) && ceilings_ ? *ceilings_ : Ceilings{};
    fill_cost(r, load_model(r.c.model), ceilings, ceilings.cache_bytes);
  }
}

void Session::time_group(const std::vector<const Item*>& group, int worker, Progress& progress) {
  std::vector<WorkerTask> tasks;
  std::map<std::string, const Item*> by_id;
  for (const Item* item : group) {
    tasks.push_back({item->c, item->id, timeout_s(item->predicted.measure_s + item->predicted.load_s)});
    by_id[item->id] = item;
  }
  std::vector<std::string> flags = {"--worker", std::to_string(worker)};
  if (ceilings_ && ceilings_apply(group[0]->c, plan_)) {
    flags.insert(flags.end(), {"--ceilings", folder_.scratch() / "ceilings.json"});
  }
  std::vector<const Item*> doubted;
  run_workers(tasks, call_for(group[0]->c, flags), [&](const TaskOutcome& outcome) {
    const Item& item = *by_id.at(outcome.task.id);
    Record r = record_of_line(outcome, worker, folder_.path());
    const std::optional<Check>& check = folder_.validation(item.id, item.binary_sha256)->check;
    const bool failed = r.status == Status::kInvalid || r.status == Status::kError;
    if (failed && memory_ && check && check->remembered_from) {
      doubted.push_back(&item);
      return;
    }
    complete(r, item);
    folder_.add(r);
    const int dropped = r.status == Status::kOk ? 0 : plan_.workers - worker - 1;
    progress.dropped(dropped, dropped * item.predicted.measure_s);
    progress.recorded(r, time_work(item.predicted, &item == group[0]));
  });
  if (!doubted.empty()) check_doubted(doubted, worker, progress);
}

/// Timed cases whose remembered check did not hold: it is forgotten, they are checked now and timed again.
void Session::check_doubted(const std::vector<const Item*>& doubted, int worker, Progress& progress) {
  for (const Item* item : doubted) {
    memory_->forget(item->binary_sha256, item->id);
    folder_.drop_validation(item->id, item->binary_sha256);
  }
  say(fmt::format("{} remembered check{} not hold and {} made anew, such as that of {}", doubted.size(),
                  doubted.size() == 1 ? " does" : "s do", doubted.size() == 1 ? "is" : "are",
                  case_name(doubted[0]->c)));
  validate_group(doubted, progress);
  std::vector<const Item*> right;
  for (const Item* item : doubted) {
    if (validated(*item)) right.push_back(item);
  }
  if (!right.empty()) time_group(right, worker, progress);
}

void Session::time_round(int worker, Progress& progress) {
  std::vector<const Item*> todo;
  for (const Item& item : items_) {
    if (!folder_.settled(item.id, worker) && (worker == 0 || validated(item))) todo.push_back(&item);
  }
  const uint64_t key = mix64(seed_ ^ mix64(static_cast<uint64_t>(worker)));
  auto groups = groups_of(todo);
  shuffle(groups, key);
  for (size_t i = 0; i < groups.size(); ++i) {
    shuffle(groups[i], mix64(key + i + 1));
    if (worker == 0) validate_group(unchecked(groups[i]), progress);
    std::vector<const Item*> right;
    for (const Item* item : groups[i]) {
      if (validated(*item) && !folder_.settled(item->id, worker)) right.push_back(item);
    }
    if (!right.empty()) time_group(right, worker, progress);
  }
}

Progress Session::progress() const {
  std::vector<const Item*> to_check, to_time;
  Eta eta;
  for (const Item& item : items_) {
    if (!folder_.settled(item.id, 0) && !validated(item)) to_check.push_back(&item);
  }
  for (const auto& group : groups_of(to_check)) {
    for (const Item* item : group) eta.add(Eta::Kind::kCheck, check_work(item->predicted, item == group[0]));
  }
  int timings = 0;
  for (int worker = 0; worker < plan_.workers; ++worker) {
    to_time.clear();
    for (const Item& item : items_) {
      if (!folder_.settled(item.id, worker)) to_time.push_back(&item);
    }
    timings += static_cast<int>(to_time.size());
    for (const auto& group : groups_of(to_time)) {
      for (const Item* item : group) eta.add(Eta::Kind::kTime, time_work(item->predicted, item == group[0]));
    }
  }
  return Progress(static_cast<int>(to_check.size()), timings, eta);
}

void Session::own_level1() {
  // The Level-1 cache that the workers fill belongs to this process: while it lives nobody clears it as a leftover.
  ::setenv("TANDEM_DRIVER_PID", std::to_string(::getpid()).c_str(), 1);
}

void Session::check() {
  own_level1();
  record_skipped();
  std::vector<const Item*> all;
  for (const Item& item : items_) all.push_back(&item);
  const std::vector<const Item*> todo = unchecked(all);
  Eta eta;
  for (const Item* item : todo) eta.add(Eta::Kind::kCheck, check_work(item->predicted, false));
  Progress progress(static_cast<int>(todo.size()), 0, eta);
  for (const auto& group : groups_of(todo)) validate_group(group, progress);
}

std::vector<Case> Session::measurable() const {
  std::vector<Case> cases;
  for (const Item& item : items_) {
    if (validated(item) && !folder_.failed(item.id)) cases.push_back(item.c);
  }
  return cases;
}

void Session::time(const std::vector<Case>& cases, int worker) {
  std::vector<const Item*> group;
  for (const Case& c : cases) {
    const std::string id = case_id(c);
    const auto it =
        std::find_if(items_.begin(), items_.end(), [&](const Item& item) { return item.id == id; });
    if (it != items_.end() && !folder_.settled(id, worker)) group.push_back(&*it);
  }
  Progress failures = Progress::failures_only();
  if (!group.empty()) time_group(group, worker, failures);
}

void Session::run() {
  own_level1();
  record_skipped();
  recall();
  Progress progress = this->progress();
  for (int worker = 0; worker < plan_.workers; ++worker) time_round(worker, progress);
  folder_.derive_benchmark_json();
}

std::map<Status, int> count_statuses(const std::vector<Record>& records) {
  std::map<Status, int> counts;
  for (const Record& r : records) ++counts[r.status];
  return counts;
}

}  // namespace tandem
