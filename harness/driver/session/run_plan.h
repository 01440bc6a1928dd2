// What a run is asked for, and what that is on this machine: engine, peers, cases, workers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "harness/card/nvml.h"
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
  bool check_again = false;  ///< checks of earlier runs are not taken, but made anew
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

/// --filter keeps no case of the sweep.
class NothingMatches : public UsageError {
 public:
  using UsageError::UsageError;
};

/// Throws UsageError, NothingMatches, and DeviceError where `--engine cuda` has no device.
RunPlan plan_run(const RunArgs& args);

/// Whose ceilings the floors of this plan stand on: the card's, or with nothing the CPU's.
std::optional<CardInfo> ceilings_card(const RunPlan& plan);
/// Do they hold for this case? A case on the CPU has no floor on a card's ceilings.
bool ceilings_apply(const Case& c, const RunPlan& plan);

/// The program of a case: suite_<suite> of `bin_dir`, or the peer's command through the shell. Without the flags.
std::vector<std::string> worker_command(const Case& c, const RunPlan& plan,
                                        const std::filesystem::path& bin_dir);
/// The command with these variables set beside its own; it stays one process.
std::vector<std::string> in_environment(std::vector<std::string> command,
                                        const std::map<std::string, std::string>& environment);

}  // namespace tandem
