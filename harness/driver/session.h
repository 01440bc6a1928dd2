// One run: which cases, in which order, through which workers, into which folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "harness/driver/predict.h"
#include "harness/driver/progress.h"
#include "harness/driver/protocol.h"
#include "harness/driver/run_folder.h"
#include "harness/run/nvml.h"
#include "harness/sweep/sweep_spec.h"

namespace tandem {

/// What `tandem run` and `tandem list` are asked for.
struct RunArgs {
  std::string sweep;
  std::string out;
  std::string engine = "auto";
  std::vector<std::string> peers;  ///< NAME=COMMAND
  std::string filter;              ///< regular expression over case names
  std::string shard;               ///< "i/n", i from 1
  int device = 0;
  std::optional<int> workers;
  bool resume = false;
  std::optional<double> timeout_s;
  std::optional<int64_t> level1_bytes;
  std::optional<uint64_t> seed;
  std::filesystem::path bin_dir;
  std::map<std::string, std::string> set = {};  ///< axis to the one value that every group of the sweep gets
  std::map<std::string, std::string> environment =
      {};  ///< variables that the workers get beside the driver's own
};

/// The asked-for cases, resolved for this machine.
struct RunPlan {
  std::string engine;
  std::optional<CardInfo> card;              ///< of engine cuda
  std::map<std::string, std::string> peers;  ///< name to command
  SweepCases sweep;                          ///< after filter and shard
  int workers = 1;
  std::string sweep_sha256;
};

/// Throws UsageError, and DeviceError where `--engine cuda` has no device.
RunPlan plan_run(const RunArgs& args);

/// The program of a case: suite_<suite> of `bin_dir`, or the peer's command through the shell. Without the flags.
std::vector<std::string> worker_command(const Case& c, const RunPlan& plan,
                                        const std::filesystem::path& bin_dir);

/// build_json() of the build in `bin_dir`, asked of its own `tandem`; "unknown" and nulls where it has none that can tell.
nlohmann::json build_of(const std::filesystem::path& bin_dir);

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
  /// Skipped cases, then the validation pass, then the timed workers. Throws IoError, Interrupted.
  void run();

  /// What run() begins with: skipped cases and the validation pass.
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
  static void own_level1();
  void record_skipped();
  void validate(Progress& progress);
  void validate_group(const std::vector<const Item*>& group, Progress& progress);
  void take_validation(const Item& item, const TaskOutcome& outcome, Progress& progress);
  void time_round(int worker, Progress& progress);
  void time_group(const std::vector<const Item*>& group, int worker, Progress& progress);
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
};

}  // namespace tandem
