// The environment of a run: the machine and the build its records were made with. environment.schema.json is
// the contract.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "harness/card/nvml.h"

namespace tandem {

struct SweepRef {
  std::string file;
  std::string sha256;
  int workers = 1;
};

struct EnvironmentOptions {
  std::string run_id = {};                ///< empty: a fresh one
  std::vector<std::string> command = {};  ///< empty: this process's own command line
  std::optional<SweepRef> sweep = {};
  std::map<std::string, std::string> binaries = {};  ///< name to SHA-256
  std::optional<std::vector<CardInfo>> cards = {};   ///< absent: what NVML reports
  std::optional<CardInfo> device = {};               ///< the one of them that the run uses; absent: none
  nlohmann::json ceilings = {};                      ///< an object or null
  nlohmann::json build = {};  ///< build_json() of the measured build; null: this binary's own
};

/// What a binary was built from and with, as the fields of environment.json that say it: git, build (without binaries)
/// and the versions in software.
nlohmann::json build_json();
/// The same of a build that cannot say.
nlohmann::json unknown_build_json();

/// environment.json. What cannot be found out is null.
nlohmann::json capture_environment(const EnvironmentOptions& options);

/// "2026-01-31T12:00:00Z".
std::string utc_now();
/// Time and random bits: sorts by time, unique without coordination.
std::string make_run_id();

/// What this binary was built from and with.
struct BuildInfo {
  std::string version;  ///< of Tandem, "0.2.0"
  std::string type, compiler, flags;
  std::optional<std::string> cuda_architectures;  ///< absent: built without CUDA
  std::optional<std::string> git_revision;
  std::optional<bool> git_dirty;
  std::optional<std::string> cuda, cublas, nccl, cupti;  ///< versions built against
};
const BuildInfo& build_info();
/// "0.2.0 (1a2b3c4d5e6f, dirty)", for --version; without what git did not tell.
std::string version_text();

/// Variables of the allow-list that are set: those that change what CUDA, its libraries, OpenMP and Tandem
/// do.
std::map<std::string, std::string> allowed_environment(char** environ);

}  // namespace tandem
