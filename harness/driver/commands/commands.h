// The commands of `tandem`. Each returns a process exit code; errors come out as exceptions.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "harness/cost/links.h"
#include "harness/driver/session/session.h"

namespace tandem {

int run_command(const RunArgs& args);
int list_command(const RunArgs& args, bool as_json);
struct ListRanksArgs {
  int tp = 0;            ///< ranks; 0: not asked for
  std::string ceilings;  ///< a file; empty: those of this machine
  Links links = {};
};
/// The same cases by a model of `tp` cards. Throws UsageError without ceilings and for links that the model cannot use.
int list_ranks_command(const RunArgs& args, const ListRanksArgs& ranks, bool as_json);
/// `passes`: names of harness/run/profile.h.
int profile_command(const RunArgs& args, const std::vector<std::string>& passes);
int doctor_command(const std::filesystem::path& bin_dir, int device, bool require_device);

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

/// "runs/smoke-20260131T120000Z".
std::string default_run_folder(const std::string& sweep);
/// Words as a shell would need them quoted.
std::string shell_command(const std::vector<std::string>& words);
/// The suite binary with the axes of a record as flags.
std::vector<std::string> suite_command(const Case& c, const std::filesystem::path& bin_dir);

}  // namespace tandem
