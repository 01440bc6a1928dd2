// The `tandem` command. The suite binaries beside it do the work; it decides which, in which order, and keeps the records.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "harness/base/error.h"
#include "harness/driver/commands.h"

namespace {

namespace fs = std::filesystem;
using tandem::ExitCode;

void add_case_options(CLI::App& command, tandem::RunArgs& args) {
  command.add_option("SWEEP", args.sweep, "sweep file (suites/*.json)")->required();
  command
      .add_option("--engine", args.engine, "auto, cuda, reference or a peer: for the groups that name none")
      ->capture_default_str();
  command.add_option("--peer", args.peers, "an engine by its command: NAME=COMMAND; may be given again")
      ->allow_extra_args(false);
  command.add_option("--filter", args.filter, "only cases whose name matches this regular expression");
  command.add_option("--shard", args.shard, "only the i-th of n parts of the cases: i/n");
  command.add_option("--device", args.device, "device number")->check(CLI::NonNegativeNumber);
  command.add_option("--workers", args.workers, "processes a case (default: the sweep's, or 6)")
      ->check(CLI::Range(1, 1000));
}

void add_bin_dir(CLI::App& command, fs::path& bin_dir) {
  command.add_option("--bin-dir", bin_dir, "folder of the suite binaries")->check(CLI::ExistingDirectory);
}

int run(int argc, char** argv) {
  CLI::App app(
      "Tandem: a reproducible benchmark and profiling harness for encoder-decoder transformer inference.\n"
      "Exit codes: 0 good, 1 something is invalid or failed, 2 usage, 3 no usable device.");
  app.require_subcommand(1);
  const fs::path beside = fs::read_symlink("/proc/self/exe").parent_path();

  tandem::RunArgs run_args;
  run_args.bin_dir = beside;
  CLI::App& run =
      *app.add_subcommand("run", "measure the cases of a sweep into a run folder, whose path it prints");
  add_case_options(run, run_args);
  run.add_option("--out", run_args.out, "run folder (default: runs/<sweep>-<UTC time>)");
  run.add_flag("--resume", run_args.resume, "continue the run in --out: only what has no record yet");
  run.add_option("--timeout", run_args.timeout_s,
                 "seconds a case (default: ten times the predicted, at least 60)")
      ->check(CLI::PositiveNumber);
  run.add_option("--level1-bytes", run_args.level1_bytes, "cap of the Level-1 cache")
      ->check(CLI::NonNegativeNumber);
  run.add_option("--seed", run_args.seed, "of the order of groups and cases (default: drawn, and recorded)");
  add_bin_dir(run, run_args.bin_dir);

  tandem::RunArgs list_args;
  list_args.bin_dir = beside;
  bool as_json = false;
  CLI::App& list = *app.add_subcommand(
      "list", "the cases of a sweep, their floors and times, what would be skipped and why");
  add_case_options(list, list_args);
  list.add_flag("--json", as_json, "JSON instead of a table");
  add_bin_dir(list, list_args.bin_dir);

  fs::path doctor_bin = beside;
  bool require_device = false;
  CLI::App& doctor =
      *app.add_subcommand("doctor", "what this machine has, what is missing, and what follows from it");
  doctor.add_flag("--require-device", require_device, "exit 3 without a usable device");
  add_bin_dir(doctor, doctor_bin);

  tandem::ReproArgs repro_args;
  repro_args.bin_dir = beside;
  CLI::App& repro =
      *app.add_subcommand("repro", "print the command of a record, run it again, compare the medians");
  repro.add_option("RECORD", repro_args.record, "a file with one record, or RUN:ID")->required();
  repro.add_option("--device", repro_args.device, "device number")->check(CLI::NonNegativeNumber);
  add_bin_dir(repro, repro_args.bin_dir);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    throw tandem::UsageError(fmt::format("{} (see tandem --help)", e.what()));
  }
  if (run.parsed()) return tandem::run_command(run_args);
  if (list.parsed()) return tandem::list_command(list_args, as_json);
  if (doctor.parsed()) return tandem::doctor_command(doctor_bin, require_device);
  return tandem::repro_command(repro_args);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const tandem::Error& e) {
    tandem::say(fmt::format("tandem: {}", e.what()));
    return static_cast<int>(e.exit_code());
  } catch (const std::exception& e) {
    tandem::say(fmt::format("tandem: {}", e.what()));
    return static_cast<int>(ExitCode::kFailed);
  }
}
