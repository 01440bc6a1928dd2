// One run: which cases, in which order, through which workers, into which folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "harness/driver/session/check_memory.h"
#include "harness/driver/session/predict.h"
#include "harness/driver/session/protocol.h"
#include "harness/driver/session/run_folder.h"
#include "harness/driver/session/run_plan.h"
#include "harness/driver/talk/progress.h"

namespace tandem {

/// Counts of a run's records by status.
std::map<Status, int> count_statuses(const std::vector<Record>& records);

class Session {
 public:
  Session(const RunArgs& args, RunPlan plan);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// The folder, the ceilings, the environment. Throws UsageError, IoError, Interrupted.
  void prepare();
  /// Skipped cases, then group by group the validation pass and the first timed worker, so that a run that is cut off has
  /// times; then the other workers. Throws IoError, Interrupted.
  void run();

  /// Skipped cases and the validation pass of all others.
  void check();
  /// Cases that passed the validation and have no failing record.
  std::vector<Case> measurable() const;
  /// Times these of the measurable cases, which share a group, in this order in one worker process; failures alone are told.
  void time(const std::vector<Case>& cases, int worker);

  const RunPlan& plan() const { return plan_; }
  const RunFolder& folder() const { return folder_; }

 private:
  struct Item {
    Case c;
    std::string id;
    Prediction predicted;
    std::string binary_sha256;
  };

  void hash_binaries();
  void recall();
  bool remembers(const Item& item) const;
  static void own_level1();
  void record_skipped();
  std::vector<const Item*> unchecked(const std::vector<const Item*>& items);
  void validate_group(const std::vector<const Item*>& group, Progress& progress);
  void take_validation(const Item& item, const TaskOutcome& outcome, const Work& predicted,
                       Progress& progress);
  void time_round(int worker, Progress& progress);
  void time_group(const std::vector<const Item*>& group, int worker, Progress& progress);
  void check_doubted(const std::vector<const Item*>& doubted, int worker, Progress& progress);
  nlohmann::json environment() const;
  void complete(Record& r, const Item& item) const;
  bool validated(const Item& item) const;
  void add_failed(const Case& c, Status status, const std::optional<std::string>& reason,
                  const std::optional<Check>& check);
  WorkerCall call_for(const Case& c, std::vector<std::string> flags) const;
  double timeout_s(double predicted_s) const;
  Progress progress() const;

  RunArgs args_;
  RunPlan plan_;
  RunFolder folder_;
  uint64_t seed_ = 0;
  std::vector<Item> items_;
  std::map<std::string, std::string> binaries_;  // program name to SHA-256
  std::optional<Ceilings> ceilings_;
  std::optional<CheckMemory> memory_;  ///< of a run; a duet's checks are its own
};

}  // namespace tandem
