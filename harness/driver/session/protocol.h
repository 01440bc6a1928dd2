// The worker protocol: how the driver and an engine talk. Whatever follows it, in any language, is an engine that
// `tandem run` measures; scripts/peers/example.py is the shortest one.
//
// The driver starts
//
//   COMMAND --cases FILE --worker N --attempt A --out DIR [--device K] [--level1-bytes B] [--ceilings FILE]     timing
//   COMMAND --cases FILE --validate --out DIR [--device K] [--level1-bytes B]                                   checking
//   COMMAND --cases FILE --supported                                                                            listing
//
// COMMAND is suite_<suite>, found beside `tandem`, or what --peer NAME=COMMAND gave for the cases of engine NAME (through
// the shell, so that it may have arguments of its own).
//
// FILE is a JSON array of cases in the order to measure them. A case has every axis by name, `suite`, and its `id` and
// `name`. All cases of one process share suite, engine, model, weights, precision, sparsity, calibration,
// head, kv, tp and dp.
//
// Checking comes before timing, group by group, in a process of its own: one line of JSON on stdout for each case,
//   {"id": ID, "status": "ok" | "invalid" | "oom" | "error" | "skipped", "reason": TEXT or null, "check": CHECK or null,
//    "accuracy": ACCURACY or null}
// where CHECK is the `check` of record.schema.json: what it was compared with, the error, the tolerance, a digest of the
// output. ACCURACY, its `accuracy`, says what a lossy precision, kv or sparsity costs against the dense fp32 model on 8
// sequences of 32 source and 32 generated tokens (accuracy_case() of harness/run/accuracy.h): a model's
// pass in such a form is not ok without it, any other may leave it out. The driver keeps these lines in DIR/validation.jsonl,
// and those that an earlier run of the same suite binary on the same card made, with the time of it in check.remembered_from.
// Only cases that are ok are timed.
//
// Timing: for each case exactly one line of JSON on stdout, flushed, in the order of FILE. It is a record as in
// record.schema.json, of which the worker must give
//   {"id": ID, "status": STATUS, "reason": TEXT when the status is not ok,
//    "samples": {"file": "samples/ID-N.f32", "n": COUNT, "sha256": HEX} when it is}
// The samples are microseconds as little-endian float32, written to DIR/samples/ID-N.f32 before the line is printed. The
// driver fills in what is left out and can be known: name, case, worker, attempt, seeds, summary, check, cost and floor. A
// worker that has more to say (clocks, memory, metrics, a digest after timing) says it in the record's own fields.
//
// TANDEM_SAMPLE_SECONDS=MIN:MAX in the environment asks for samples of at least MIN and at most MAX seconds a case: a duet
// takes fewer samples in more processes. An engine that keeps the outcome of a search (GEMM algorithms) keeps it in
// DIR/gemm-choices.json: a duet hands side A's to side B before B is checked.
//
// Listing: one line a case, {"id": ID, "status": "ok" | "skipped" | "oom" | "error", "reason": TEXT or null}, the status being
// what checking would find, as far as that is known cheaply and with nothing allocated. A line with a status whose id is no
// text ends the listing. An engine that does not know --supported exits with an error and is not asked further.
//
// A case of tp x dp ranks is the worker's own matter: the suites start the other ranks as processes of the worker's group. Its
// record has all of them in `ranks`; where one is lost its status is rank_lost.
//
// Everything on stderr, and lines on stdout that are not JSON objects with the id of a case, is talk: its last lines go into
// `reason` when the worker fails. After all lines the worker exits with 0.
//
// A worker that dies, or prints nothing for longer than the case's time-out, costs the case in progress only: that one is
// tried once more alone (--attempt 2) and then recorded as crashed or timeout; the others that were not done run again in a
// process each. A worker whose process is beyond use (a sticky CUDA error) prints the line of the case with a failing status
// and exits: then no other case is blamed. Workers are killed when the driver dies, each with its process group.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "harness/record/record.h"
#include "harness/sweep/case.h"

namespace tandem {

/// Writes the FILE of the protocol. Throws IoError.
void write_cases(const std::filesystem::path& path, const std::vector<Case>& cases);

/// One case on its way through workers.
struct WorkerTask {
  Case c;
  std::string id = {};
  double allowed_s = 60;  ///< its time-out
};

/// What became of a task.
struct TaskOutcome {
  const WorkerTask& task;
  int attempt = 1;
  nlohmann::json line = {};        ///< what the worker printed; null when it failed twice without a line
  Status status = Status::kError;  ///< kCrashed, kTimeout or kError where `line` is null
  std::string reason = {};
  double wall_s = 0;
};

struct WorkerCall {
  /// The command line for a file of cases and an attempt.
  std::function<std::vector<std::string>(const std::filesystem::path& cases, int attempt)> command;
  std::filesystem::path scratch;  ///< folder for the files of cases
};

/// Runs the tasks through one worker process, and what that leaves undone through one process each, as the page above
/// says. Calls `done` once a task, as soon as its outcome is known; what `done` throws kills the worker and comes out.
/// Throws Interrupted after SIGINT or SIGTERM.
void run_workers(const std::vector<WorkerTask>& tasks, const WorkerCall& call,
                 const std::function<void(const TaskOutcome&)>& done);

/// What the record's schema requires and `line` leaves out, filled in from the driver's own knowledge.
nlohmann::json with_defaults(nlohmann::json line, const WorkerTask& task, int worker, int attempt,
                             double wall_s);

/// The record of a line that run_workers delivered, with its samples checked against their file in `run_dir` and made
/// durable, and its summary computed where the worker left it out. A line that does not keep the protocol gives a record of
/// status error that says why.
Record record_of_line(const TaskOutcome& outcome, int worker, const std::filesystem::path& run_dir);

}  // namespace tandem
