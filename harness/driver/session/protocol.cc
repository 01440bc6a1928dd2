#include "harness/driver/session/protocol.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <deque>
#include <fstream>
#include <map>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/base/process.h"
#include "harness/base/sha256.h"
#include "harness/record/json_schema.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr double kExitAllowed_s = 60;  // from the last line to the end of the process

/// Tasks for one process.
struct Batch {
  std::vector<const WorkerTask*> tasks;
  int attempt = 1;
};

/// One worker process: what it was given, what it delivered.
class WorkerProcess {
 public:
  WorkerProcess(const Batch& batch, const WorkerCall& call,
                const std::function<void(const TaskOutcome&)>& done)
      : batch_(batch), call_(call), done_(done), delivered_(batch.tasks.size(), false) {
    for (size_t i = 0; i < batch.tasks.size(); ++i) place_[batch.tasks[i]->id] = i;
  }

  /// Runs it; then puts what is to be run again into `queue`, and reports what failed for good.
  void run(std::deque<Batch>& queue) {
    const fs::path file = call_.scratch / fmt::format("cases-{}.json", ::getpid());
    std::vector<Case> cases;
    for (const WorkerTask* task : batch_.tasks) cases.push_back(task->c);
    write_cases(file, cases);
    mark_ = steady_s();
    const ProcessEnd end = run_process({.command = call_.command(file, batch_.attempt),
                                        .on_line = [this](const std::string& line) { take(line); },
                                        .allowed_s = [this] { return allowed_s(); }});
    if (end.how == ProcessEnd::How::kInterrupted) throw Interrupted("interrupted");
    settle(end, queue);
  }

 private:
  size_t in_progress() const {
    for (size_t i = next_; i < delivered_.size(); ++i) {
      if (!delivered_[i]) return i;
    }
    for (size_t i = 0; i < delivered_.size(); ++i) {
      if (!delivered_[i]) return i;
    }
    return delivered_.size();
  }

  double allowed_s() const {
    const size_t i = in_progress();
    return i < delivered_.size() ? batch_.tasks[i]->allowed_s : kExitAllowed_s;
  }

  void take(const std::string& text) {
    const json line = parse_json_or_discard(text);
    const bool object = line.is_object() && line.contains("id") && line["id"].is_string();
    const auto it = object ? place_.find(line["id"].get<std::string>()) : place_.end();
    if (it == place_.end() || delivered_[it->second]) {
      if (!text.empty()) strayed_ = text.substr(0, 200);
      return;
    }
    delivered_[it->second] = true;
    next_ = it->second + 1;
    const json status = line.value("status", json());
    last_failed_ = status == "error" || status == "oom" || status == "rank_lost";
    const double now = steady_s();
    const double wall_s = now - mark_;
    mark_ = now;
    done_({.task = *batch_.tasks[it->second], .attempt = batch_.attempt, .line = line, .wall_s = wall_s});
  }

  void settle(const ProcessEnd& end, std::deque<Batch>& queue) {
    const size_t culprit = in_progress();
    // A process that ended on a failure that it reported itself is to blame for nothing else; one that ended well without
    // some lines never meant to print them.
    const bool poisoned = last_failed_ && end.how != ProcessEnd::How::kTimedOut && !end.clean();
    for (size_t i = 0; i < delivered_.size(); ++i) {
      if (delivered_[i]) continue;
      const bool blamed = end.clean() || (i == culprit && !poisoned);
      if (blamed && batch_.attempt > 1) {
        report_failed(*batch_.tasks[i], end);
      } else {
        queue.push_back({{batch_.tasks[i]}, blamed ? 2 : 1});
      }
    }
  }

  void report_failed(const WorkerTask& task, const ProcessEnd& end) {
    std::string reason = end.clean() ? "the worker ended without a line for this case" : end.describe();
    if (!strayed_.empty()) reason += fmt::format("; on stdout: {}", strayed_);
    if (!end.talk.empty()) reason += fmt::format("; on stderr: {}", end.talk);
    const Status status = end.how == ProcessEnd::How::kTimedOut ? Status::kTimeout
                          : end.clean()                         ? Status::kError
                                                                : Status::kCrashed;
    done_({.task = task,
           .attempt = batch_.attempt,
           .status = status,
           .reason = reason,
           .wall_s = steady_s() - mark_});
  }

  const Batch& batch_;
  const WorkerCall& call_;
  const std::function<void(const TaskOutcome&)>& done_;
  std::vector<bool> delivered_;
  std::map<std::string, size_t> place_;
  size_t next_ = 0;           // the place after the last line's
  bool last_failed_ = false;  // the last line had a failing status
  double mark_ = 0;           // when the case in progress began
  std::string strayed_;       // the last line on stdout that was no line of ours
};

void sync_file(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

/// The samples that a record points at. Throws UsageError for anything that is not as the protocol says.
std::vector<float> read_samples(const SamplesRef& ref, const fs::path& run_dir) {
  const fs::path file = fs::path(ref.file).lexically_normal();
  if (file.is_absolute() || file.begin() == file.end() || *file.begin() != "samples") {
    throw UsageError(fmt::format("samples.file: '{}' is not in samples/", ref.file));
  }
  const fs::path path = run_dir / file;
  std::string bytes;
  try {
    bytes = read_file(path);
  } catch (const IoError& e) {
    throw UsageError(fmt::format("samples: {}", e.what()));
  }
  if (bytes.size() != static_cast<size_t>(ref.n) * sizeof(float)) {
    throw UsageError(fmt::format("samples: {} has {} bytes, {} samples have {}", ref.file, bytes.size(),
                                 ref.n, static_cast<size_t>(ref.n) * sizeof(float)));
  }
  if (sha256_hex(bytes) != ref.sha256)
    throw UsageError(fmt::format("samples: {} has another SHA-256", ref.file));
  sync_file(path);
  std::vector<float> samples(static_cast<size_t>(ref.n));
  std::copy(bytes.begin(), bytes.end(), reinterpret_cast<char*>(samples.data()));
  return samples;
}

void check_line(Record& r, const TaskOutcome& outcome, int worker, const fs::path& run_dir) {
  if (!(r.c == outcome.task.c) || r.worker != worker)
    throw UsageError("the line is of another case or worker");
  if (r.status != Status::kOk) {
    if (!r.reason) r.reason = "the worker gave no reason";
    return;
  }
  if (!r.samples) throw UsageError("status ok without samples");
  const Summary summary = summarize(read_samples(*r.samples, run_dir));
  if (!r.summary) r.summary = summary;
  if (std::abs(r.summary->median_us - summary.median_us) > 1e-4 * summary.median_us) {
    throw UsageError(
        fmt::format("summary.median_us is {}, the samples' is {}", r.summary->median_us, summary.median_us));
  }
}

}  // namespace

void write_cases(const fs::path& path, const std::vector<Case>& cases) {
  json list = json::array();
  for (const Case& c : cases) {
    json j = case_to_json(c);
    j["id"] = case_id(c);
    j["name"] = case_name(c);
    list.push_back(std::move(j));
  }
  write_file_atomic(path, list.dump(1) + "\n");
}

void run_workers(const std::vector<WorkerTask>& tasks, const WorkerCall& call,
                 const std::function<void(const TaskOutcome&)>& done) {
  Batch all;
  for (const WorkerTask& task : tasks) all.tasks.push_back(&task);
  std::deque<Batch> queue;
  if (!tasks.empty()) queue.push_back(std::move(all));
  while (!queue.empty()) {
    if (interrupted()) throw Interrupted("interrupted");
    const Batch batch = std::move(queue.front());
    queue.pop_front();
    WorkerProcess(batch, call, done).run(queue);
  }
}

json with_defaults(json line, const WorkerTask& task, int worker, int attempt, double wall_s) {
  const auto fill = [&](const char* key, json value) {
    if (!line.contains(key)) line[key] = std::move(value);
  };
  fill("schema", kRecordSchema);
  fill("id", task.id);
  fill("name", case_name(task.c));
  fill("suite", suite_name(task.c.suite));
  fill("case", case_to_json(task.c));
  fill("worker", worker);
  fill("attempt", attempt);
  fill("reason", nullptr);
  fill("seeds", {{"inputs", Record{}.input_seed}});
  fill("wall_s", wall_s);
  return line;
}

Record record_of_line(const TaskOutcome& outcome, int worker, const fs::path& run_dir) {
  Record failed = make_record(outcome.task.c, worker, outcome.attempt);
  failed.wall_s = outcome.wall_s;
  failed.status = outcome.status;
  failed.reason = outcome.reason;
  if (outcome.line.is_null()) return failed;
  try {
    Record r =
        record_from_json(with_defaults(outcome.line, outcome.task, worker, outcome.attempt, outcome.wall_s));
    check_line(r, outcome, worker, run_dir);
    return r;
  } catch (const Error& e) {
    failed.status = Status::kError;
    failed.reason = fmt::format("the worker's line does not keep the protocol: {}", e.what());
    return failed;
  }
}

}  // namespace tandem
