// THE MAIN PATH of one process: cases in, one record line a case out. The driver starts workers; a suite binary run by hand
// goes the same way through Google Benchmark (suite_main.h).
#pragma once

#include <functional>
#include <iosfwd>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "harness/cost/ceilings.h"
#include "harness/engine/engine.h"
#include "harness/engine/planted.h"
#include "harness/record/record.h"
#include "harness/run/profile.h"
#include "harness/run/ranks/team.h"
#include "harness/run/registry.h"
#include "harness/run/sampling/clocks.h"
#include "harness/run/sampling/measure.h"
#include "harness/run/validate.h"

namespace tandem {

struct WorkerOptions {
  EngineOptions engine;
  int worker = 0;
  int attempt = 1;
  std::string
      run_dir;  ///< samples/ and validation.jsonl live here; empty: keep nothing, validate in this process
  Ceilings ceilings;
  double plant_percent = planted_delay_percent();  ///< harness/engine/planted.h
  RankLaunch ranks = {};                           ///< how the other ranks of a case of several come to be
  const NvmlFunctions* (*nvml)() = &tandem::nvml;  ///< tests put a recorded machine here
};

/// Measures cases one after the other; keeps the engine and what it has loaded between cases of one group.
class Worker {
 public:
  /// Where a launcher started several ranks, meets them. Throws what RankTeam throws.
  Worker(const EngineRegistry& registry, WorkerOptions options);
  ~Worker();

  /// What measure_case() will be called with, in any order. To be said before the first.
  void expect(std::vector<Case> cases) { expected_ = std::move(cases); }
  /// Can the case's engine compute it? Throws ImpossibleCase, naming the field, if not. Cheap, nothing is allocated.
  void check_supported(const Case& c);
  /// The validation pass of one case.
  Validation validate_case(const Case& c);
  /// Times one case that was validated. Never throws for what is wrong with the case: that is the status.
  Record measure_case(const Case& c, const Validation& validation);
  /// One profile pass of one case, as a line of profiles.jsonl. The first call must come before anything else that this process
  /// does with a device. Never throws for what is wrong with the case.
  nlohmann::json profile_case(const Case& c, ProfilePass pass);
  /// Can nothing more be measured, because ranks of a launcher are lost? Why.
  const std::optional<std::string>& beyond_use() const { return beyond_use_; }
  /// Validations of the run folder by case id; the last line of an id counts.
  std::map<std::string, Validation> read_validations() const;

 private:
  Engine& engine_for(const Case& c);
  GroupChecks& checks_of(const Case& c, int64_t max_logits);
  void check_devices(const Case& c) const;
  void give_up_broken_team(const std::optional<std::string>& reason);
  std::optional<CardInfo> card() const;
  void know_links(const Case& c, Record& r) const;
  void load(const Case& c, const ModelConfig& config);
  nlohmann::json profile_subject(const ProfileSubject& subject, ProfilePass pass);
  void measure_model(const Case& c, const Validation& validation, Record& r);
  void measure_op(const Case& c, Record& r);
  void take_samples(Workload& workload, Record& r);
  void store_samples(const std::vector<float>& samples, Record& r);

  const EngineRegistry& registry_;
  WorkerOptions options_;
  std::unique_ptr<Tracer> tracer_;  // before the engine: it must be there when CUDA starts, and outlives it
  std::unique_ptr<RankTeam> team_;  // before the engine, which speaks through it
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<GroupChecks> checks_;  // after the engine, which it loads
  std::string engine_name_, loaded_group_, checked_group_;
  int tp_ = 1, dp_ = 1;  // that the engine was made for
  std::optional<std::string> beyond_use_;
  AccuracyByGroup accuracies_;
  std::unique_ptr<ClockReader> clocks_;  // of ranks: they speak through the team
  ClockSettling settling_;
  std::vector<Case> expected_;
};

/// What a process does with its cases.
enum class ServeMode : uint8_t { kMeasure, kValidate, kSupported, kProfile, kProfileSupported };

/// The worker protocol (harness/driver/PROTOCOL.md): reads the JSON array of cases in `cases_path`, goes through them in that
/// order and writes one JSON line each to `out`, flushed. `pass`: of kProfile.
void serve_cases(Worker& worker, const std::string& cases_path, ServeMode mode, std::ostream& out,
                 ProfilePass pass = ProfilePass::kNode);

/// Can a case be profiled at all? Asked before anything is measured.
nlohmann::json profile_supported(const Case& c, ProfilePass pass);

/// Is a CUPTI library mapped into this process? Absent where /proc cannot tell.
std::optional<bool> profiler_mapped();

}  // namespace tandem
