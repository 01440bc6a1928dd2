// The commands of `tandem`. Each returns a process exit code; errors come out as exceptions.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "harness/cost/links.h"
#include "harness/driver/session/session.h"

namespace tandem {

/// Each of the sweeps into a run of its own; all are read before the first is measured.
int run_command(const RunArgs& args, const std::vector<std::string>& sweeps);
int list_command(const RunArgs& args, const std::vector<std::string>& sweeps, bool as_json);
struct ListRanksArgs {
  std::vector<int> tp;   ///< ranks; empty: not asked for
  std::string ceilings;  ///< a file of them, or a run's environment.json; empty: those of this machine
  Links links = {};
};
/// The same cases by a model of so many cards. Throws UsageError without ceilings and for links that the model cannot use.
int list_ranks_command(const RunArgs& args, const std::vector<std::string>& sweeps,
                       const ListRanksArgs& ranks, bool as_json);
/// `passes`: names of harness/run/profile.h.
int profile_command(const RunArgs& args, const std::vector<std::string>& passes);

struct DoctorArgs {
  std::filesystem::path bin_dir;
  int device = 0;
  bool require_device = false, as_json = false;
};
int doctor_command(const DoctorArgs& args);

struct GenerateArgs {
  std::string checkpoint, input_ids;
  std::vector<std::string> passed;  ///< flags for suite_generate --tokens, as they are
  bool ids_only = false;
  std::filesystem::path bin_dir;
};
int generate_command(const GenerateArgs& args);

struct ReproArgs {
  std::string record;  ///< a file with one record, or RUN:ID
  int device = 0;
  std::filesystem::path bin_dir;
};
int repro_command(const ReproArgs& args);

/// Prints build_json() of this build on one line.
int build_info_command();

/// The arguments for each of the sweeps of one command line, and its plan. A file of gate rules among several is passed over,
/// and so is a sweep of which --filter keeps nothing while it keeps something of another. Throws what plan_run throws.
struct PlannedSweep {
  RunArgs args;
  RunPlan plan;
};
std::vector<PlannedSweep> plan_sweeps(const RunArgs& args, const std::vector<std::string>& sweeps);
/// Lines of a run's medians, floors and failures, no longer than `width` columns where there is one; empty without a case that
/// was to be measured.
std::string medians_table(const std::vector<Record>& records, std::optional<size_t> width);
/// How this process was called, for commands that it tells to run: "build/bin/tandem".
std::string own_command();
/// "report: tandem-report report RUN", as it works from this folder.
std::string report_hint(const std::filesystem::path& bin_dir, const std::string& run);

/// "runs/smoke-20260131T120000Z".
std::string default_run_folder(const std::string& sweep);
/// Words as a shell would need them quoted.
std::string shell_command(const std::vector<std::string>& words);
/// The suite binary with the axes of a record as flags.
std::vector<std::string> suite_command(const Case& c, const std::filesystem::path& bin_dir);

}  // namespace tandem
