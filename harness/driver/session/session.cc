#include "harness/driver/session/session.h"

#include <fmt/format.h>

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <random>
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

void Session::take_validation(const Item& item, const TaskOutcome& outcome, Progress& progress) {
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
  }
  if (v.status != Status::kOk) {
    progress.dropped(plan_.workers, plan_.workers * item.predicted.measure_s);
    add_failed(item.c, v.status, v.reason, v.check);
  }
  progress.checked(case_name(item.c), v.status, v.reason.value_or(""), item.predicted.validate_s);
}

void Session::validate_group(const std::vector<const Item*>& group, Progress& progress) {
  std::vector<WorkerTask> tasks;
  std::map<std::string, const Item*> by_id;
  for (const Item* item : group) {
    const Prediction& p = item->predicted;
    tasks.push_back({item->c, item->id, timeout_s(p.validate_s + p.accuracy_s + 2 * p.load_s)});
    by_id[item->id] = item;
  }
  run_workers(tasks, call_for(group[0]->c, {"--validate"}), [&](const TaskOutcome& outcome) {
    take_validation(*by_id.at(outcome.task.id), outcome, progress);
  });
}

void Session::validate(Progress& progress) {
  std::vector<const Item*> todo;
  for (const Item& item : items_) {
    const Validation* known = folder_.validation(item.id, item.binary_sha256);
    const bool settled = folder_.settled(item.id, 0);
    if (known == nullptr && !settled) todo.push_back(&item);
    // Killed between the two lines.
    if (known != nullptr && known->status != Status::kOk && !settled) {
      add_failed(item.c, known->status, known->reason, known->check);
    }
  }
  for (const auto& group : groups_of(todo)) validate_group(group, progress);
}

void Session::complete(Record& r, const Item& item) const {
  r.order_seed = seed_;
  if (r.status != Status::kOk) return;
  const Validation& v = *folder_.validation(item.id, item.binary_sha256);
  if (!r.check) r.check = v.check;
  if (!r.accuracy) r.accuracy = v.accuracy;
  if (!r.flops && !r.bytes && is_model_suite(r.c.suite)) {
    fill_cost(r, load_model(r.c.model), ceilings_apply(r.c, plan_) && ceilings_ ? *ceilings_ : Ceilings{},
              std::nullopt);
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
  run_workers(tasks, call_for(group[0]->c, flags), [&](const TaskOutcome& outcome) {
    const Item& item = *by_id.at(outcome.task.id);
    Record r = record_of_line(outcome, worker, folder_.path());
    complete(r, item);
    folder_.add(r);
    const int dropped = r.status == Status::kOk ? 0 : plan_.workers - worker - 1;
    progress.dropped(dropped, dropped * item.predicted.measure_s);
    progress.recorded(r, item.predicted.measure_s);
  });
}

void Session::time_round(int worker, Progress& progress) {
  std::vector<const Item*> todo;
  for (const Item& item : items_) {
    if (folder_.settled(item.id, worker)) continue;
    if (validated(item)) todo.push_back(&item);
  }
  const uint64_t key = mix64(seed_ ^ mix64(static_cast<uint64_t>(worker)));
  auto groups = groups_of(todo);
  shuffle(groups, key);
  for (size_t i = 0; i < groups.size(); ++i) {
    shuffle(groups[i], mix64(key + i + 1));
    time_group(groups[i], worker, progress);
  }
}

Progress Session::progress() const {
  int to_check = 0, to_time = 0;
  double predicted_s = 0;
  for (const Item& item : items_) {
    if (!folder_.settled(item.id, 0) && !validated(item)) {
      ++to_check;
      predicted_s += item.predicted.validate_s;
    }
    for (int worker = 0; worker < plan_.workers; ++worker) {
      if (folder_.settled(item.id, worker)) continue;
      ++to_time;
      predicted_s += item.predicted.measure_s;
    }
  }
  return Progress(to_check, to_time, predicted_s);
}

void Session::own_level1() {
  // The Level-1 cache that the workers fill belongs to this process: while it lives nobody clears it as a leftover.
  ::setenv("TANDEM_DRIVER_PID", std::to_string(::getpid()).c_str(), 1);
}

void Session::check() {
  own_level1();
  record_skipped();
  Progress progress(static_cast<int>(items_.size()), 0, 0);
  validate(progress);
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
  Progress progress = this->progress();
  validate(progress);
  for (int worker = 0; worker < plan_.workers; ++worker) time_round(worker, progress);
  folder_.derive_benchmark_json();
}

std::map<Status, int> count_statuses(const std::vector<Record>& records) {
  std::map<Status, int> counts;
  for (const Record& r : records) ++counts[r.status];
  return counts;
}

}  // namespace tandem
