// The `tandem` command. The suite binaries beside it do the work; it decides which, in which order, and keeps the records.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "harness/base/error.h"
#include "harness/base/text.h"
#include "harness/driver/bisect/bisect.h"
#include "harness/driver/commands/commands.h"
#include "harness/driver/commands/help.h"
#include "harness/driver/duet/duet.h"
#include "harness/driver/duet/report_tool.h"
#include "harness/record/environment.h"

namespace {

namespace fs = std::filesystem;
using tandem::ExitCode;

constexpr const char* kCases = "Which cases";
constexpr const char* kMeasuring = "How they are measured";
constexpr const char* kResult = "Where it goes";

void add_engine_options(CLI::App& command, tandem::RunArgs& args) {
  command
      .add_option("--engine", args.engine, "auto, cuda, reference or a peer: for the groups that name none")
      ->capture_default_str()
      ->group(kCases);
  command.add_option("--peer", args.peers, "an engine by its command: NAME=COMMAND; may be given again")
      ->allow_extra_args(false)
      ->group(kCases);
  command.add_option("--filter", args.filter, "only cases whose name matches this regular expression")
      ->group(kCases);
  command.add_option("--device", args.device, "device number")->check(CLI::NonNegativeNumber)->group(kCases);
}

void add_case_options(CLI::App& command, tandem::RunArgs& args) {
  add_engine_options(command, args);
  command.add_option("--shard", args.shard, "only the i-th of n parts of the cases: i/n")->group(kCases);
  command.add_option("--workers", args.workers, "processes a case (default: the sweep's, or 6)")
      ->check(CLI::Range(1, 1000))
      ->group(kMeasuring);
}

void add_level1(CLI::App& command, tandem::RunArgs& args) {
  command
      .add_option("--level1-bytes", args.level1_bytes,
                  "bytes that the Level-1 cache may hold (default: 24 GiB, or what shared memory has free)")
      ->check(CLI::NonNegativeNumber)
      ->group(kMeasuring);
}

void add_quiet(CLI::App& command) {
  command
      .add_flag_callback(
          "--quiet", [] { tandem::be_quiet(); }, "on stderr only what failed, and warnings")
      ->group(kResult);
}

void add_check_again(CLI::App& command, tandem::RunArgs& args) {
  command
      .add_flag("--check-again", args.check_again,
                "check every case, also those that an earlier run of this build has checked")
      ->group(kMeasuring);
}

void add_bin_dir(CLI::App& command, fs::path& bin_dir) {
  command.add_option("--bin-dir", bin_dir, "folder of the suite binaries (default: beside tandem)")
      ->check(CLI::ExistingDirectory);
}

void add_duet_options(CLI::App& command, tandem::DuetArgs& args) {
  tandem::RunArgs& run = args.run;
  constexpr const char* kSides = "The two sides";
  constexpr const char* kVerdict = "When it is decided";
  command.add_option("SWEEP", run.sweep,
                     "sweep file, or its name; suites/X.json is taken as side A was built with it");
  command.add_option("--sweep", args.sweep, "this sweep as it is, whatever side A has")->group(kCases);
  command.add_option("--a", args.bin[0], "suite binaries of side A (default: those beside tandem)")
      ->check(CLI::ExistingDirectory)
      ->group(kSides);
  command.add_option("--b", args.bin[1], "suite binaries of side B")
      ->check(CLI::ExistingDirectory)
      ->group(kSides);
  const char* sides[] = {"--a", "--b"};
  for (int i = 0; i < 2; ++i) {
    const std::string side = sides[i];
    command.add_option(side + "-set", args.set[i], "an axis of every group on this side: AXIS=VALUE")
        ->allow_extra_args(false)
        ->group(kSides);
    command.add_option(side + "-env", args.environment[i], "a variable of this side's workers: NAME=VALUE")
        ->allow_extra_args(false)
        ->group(kSides);
  }
  command
      .add_flag("--own-choices", args.own_choices,
                "let side B search its own GEMM algorithms instead of starting from A's")
      ->group(kSides);
  add_engine_options(command, run);
  command
      .add_option("--budget", args.budget,
                  "time for pairs, once both sides are checked, such as 8m, 90s, 1h30m; more with --resume "
                  "extends a duet")
      ->capture_default_str()
      ->group(kVerdict);
  command
      .add_option("--looks", args.looks,
                  "most looks that the gate's alpha is shared among; more with --resume extend a duet")
      ->check(CLI::Range(1, 20))
      ->capture_default_str()
      ->group(kVerdict);
  command
      .add_option("--policy", args.policy,
                  "the gate's rules (default: suites/gates.json as side A was built with it)")
      ->group(kVerdict);
  command.add_option("--sample", args.sample, "seconds of samples of a case in one process, MIN:MAX")
      ->capture_default_str()
      ->group(kMeasuring);
  command
      .add_option("--timeout", run.timeout_s,
                  "seconds a case (default: ten times the predicted, at least 60)")
      ->check(CLI::PositiveNumber)
      ->group(kMeasuring);
  add_level1(command, run);
  command
      .add_option("--seed", run.seed,
                  "of the order of sides, groups and cases (default: drawn, and recorded)")
      ->group(kMeasuring);
  command
      .add_flag("--profile", args.profile,
                "profile the slower cases once on each side: the verdict names the phase and kernel")
      ->group(kResult);
  command.add_option("--out", run.out, "duet folder (default: runs/duet-<sweep>-<UTC time>)")->group(kResult);
  command.add_flag("--resume", run.resume, "continue the duet in --out")->group(kResult);
  command.footer(
      "Exit codes: 0 no case is slower, 1 something is slower, less accurate, failed or missing, 2 usage or "
      "nothing comparable, 3 no usable device, 4 not enough evidence to say, 70 no verdict, 130 "
      "interrupted.");
}

void add_bisect_options(CLI::App& command, tandem::BisectArgs& args) {
  tandem::DuetArgs& duet = args.duet;
  tandem::RunArgs& run = duet.run;
  constexpr const char* kRevisions = "Which revisions";
  command.add_option("SWEEP", run.sweep, "sweep file; suites/X.json is taken as the good revision has it");
  command.add_option("--good", args.good, "a revision at which the case is not slower yet")
      ->required()
      ->group(kRevisions);
  command.add_option("--bad", args.bad, "a later one at which it is")->required()->group(kRevisions);
  command.add_option("--repo", args.repository, "the git repository")
      ->capture_default_str()
      ->group(kRevisions);
  command
      .add_option("--build", args.build,
                  "what builds a revision, for /bin/sh in the root of its tree (default: " +
                      tandem::default_build_command() + ")")
      ->group(kRevisions);
  command.add_option("--bin", args.bin, "where that leaves the suite binaries, from there")
      ->capture_default_str()
      ->group(kRevisions);
  command.add_option("--case", args.name, "name of the case, or a part of it that no other case has")
      ->required()
      ->group(kCases);
  command.add_option("--sweep", duet.sweep, "this sweep as it is, whatever the good revision has")
      ->group(kCases);
  command
      .add_option("--engine", run.engine, "auto, cuda, reference or a peer: for the groups that name none")
      ->capture_default_str()
      ->group(kCases);
  command.add_option("--peer", run.peers, "an engine by its command: NAME=COMMAND; may be given again")
      ->allow_extra_args(false)
      ->group(kCases);
  command.add_option("--device", run.device, "device number")->check(CLI::NonNegativeNumber)->group(kCases);
  command.add_option("--budget", duet.budget, "time for the pairs of each duet")
      ->capture_default_str()
      ->group(kMeasuring);
  command.add_option("--looks", duet.looks, "most looks at each duet")
      ->check(CLI::Range(1, 20))
      ->capture_default_str()
      ->group(kMeasuring);
  command.add_option("--sample", duet.sample, "seconds of samples in one process, MIN:MAX")
      ->capture_default_str()
      ->group(kMeasuring);
  command.add_option("--policy", duet.policy, "the gate's rules (default: those of the good revision)")
      ->group(kMeasuring);
  command.add_option("--timeout", run.timeout_s, "seconds a case")
      ->check(CLI::PositiveNumber)
      ->group(kMeasuring);
  command.add_option("--out", run.out, "folder of the duets (default: runs/bisect-<UTC time>)")
      ->group(kResult);
  command.add_flag("--resume", run.resume, "continue the bisection in --out")->group(kResult);
  command.footer(
      "\nFirst parents from --good to --bad are tried, each built in a worktree of the cache folder and held "
      "against --good by the gate; what does not build or stays undecided is skipped.\n"
      "Exit codes: 0 found, 2 usage, or --bad is not slower, 3 no usable device, 4 one of several, or not "
      "enough evidence, 130 interrupted.");
}

/// The model of several cards that `list` prints, and what it stands on.
void add_links(CLI::App& list, tandem::ListRanksArgs& args) {
  tandem::Links& l = args.links;
  constexpr const char* kModel = "A model of several cards instead, which need not be here";
  CLI::Option* tp =
      list.add_option("--tp", args.tp, "what it says of each pass on so many cards: 2, 4 or 8, or several")
          ->delimiter(',')
          ->allow_extra_args(false)
          ->check(CLI::IsMember({2, 4, 8}))
          ->group(kModel);
  list.add_option("--ceilings", args.ceilings,
                  "ceilings of a card: a file of them, or the environment.json of a run (default: those "
                  "measured on this machine)")
      ->needs(tp)
      ->group(kModel);
  const auto number = [&](const char* name, double& value, const char* help) {
    list.add_option(name, value, help)->needs(tp)->capture_default_str()->group(kModel);
  };
  number("--card-gbs", l.card_gbs, "GB/s of a card to its peers, one direction (NVLink 4)");
  number("--call-us", l.call_us, "us of an all-reduce of a few bytes within a host");
  number("--network-gbs", l.network_gbs, "GB/s of a card to other hosts, one direction");
  list.add_option("--cards-per-host", l.cards_per_host, "cards of a host")
      ->needs(tp)
      ->group(kModel)
      ->capture_default_str();
  list.add_option("--network-us", l.network_us, "us from host to host and back; needed with several hosts")
      ->needs(tp)
      ->group(kModel);
}

/// Everything but the two files and --ids-only is handed on to the suite, which knows what is allowed.
CLI::App& add_generate(CLI::App& app, tandem::GenerateArgs& args) {
  CLI::App& generate = *app.add_subcommand(
      "generate", "tokens (and text, with tokenizer.json and Python's tokenizers) of a checkpoint");
  generate.add_option("CHECKPOINT", args.checkpoint, "a Hugging Face folder")->required();
  generate.add_option("--input-ids", args.input_ids, "file of sources, one sequence of ids a line")
      ->required();
  generate.add_flag("--ids-only", args.ids_only, "no text");
  const auto pass = [&](const std::string& name, const std::string& help) {
    generate.add_option_function<std::string>(
        name,
        [&args, name](const std::string& value) {
          args.passed.insert(args.passed.end(), {name, value});
        },
        help);
  };
  pass("--decode",
       "greedy, beam:4, top_k:50,temperature:0.8 ... (default: what generation_config.json says)");
  pass("--engine", "reference, cuda or auto (default: auto)");
  pass("--precision", "fp32 tf32 fp16 bf16 (default: fp32)");
  pass("--max-new-tokens", "most tokens a sequence gets (default: what generation_config.json says)");
  pass("--forced-bos", "id of the first token, where the target language is one");
  pass("--n-best", "sequences a source");
  pass("--seed", "of sampling: source i draws from seed + i (default: 0)");
  pass("--device", "device number");
  generate.add_flag_callback(
      "--scores", [&args] { args.passed.emplace_back("--scores"); },
      "a score and a tab before each line of ids");
  return generate;
}

/// `tandem help COMMAND` is `tandem COMMAND --help`. Throws UsageError for a command that there is not.
std::vector<std::string> command_words(const CLI::App& app, int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc), known = {"help"};
  if (!words.empty() && words[0] == "help") {
    words.erase(words.begin());
    words.resize(std::min<size_t>(words.size(), 1));
    words.emplace_back("--help");
  }
  for (const CLI::App* command : app.get_subcommands({})) known.push_back(command->get_name());
  if (words.empty()) {
    throw tandem::UsageError(
        fmt::format("a command is needed: {} (see tandem --help)", fmt::join(known, " ")));
  }
  if (words[0][0] != '-' && std::find(known.begin(), known.end(), words[0]) == known.end()) {
    const std::string meant = tandem::did_you_mean(words[0], known);
    throw tandem::UsageError(
        fmt::format("unknown command '{}'{}", words[0],
                    meant.empty() ? fmt::format("; {} (see tandem --help)", fmt::join(known, " ")) : meant));
  }
  return words;
}

int run(int argc, char** argv) {
  CLI::App app(
      "Tandem: a reproducible benchmark and profiling harness for encoder-decoder transformer inference.",
      "tandem");
  app.footer(fmt::format("\n`tandem help COMMAND` says more. {}", tandem::kExitCodes));
  app.formatter(std::make_shared<tandem::HelpFormatter>());
  app.set_version_flag("--version", fmt::format("tandem {}", tandem::version_text()), "the version");
  app.require_subcommand(1);
  const fs::path beside = fs::read_symlink("/proc/self/exe").parent_path();

  tandem::RunArgs run_args;
  run_args.bin_dir = beside;
  std::vector<std::string> run_sweeps;
  CLI::App& run =
      *app.add_subcommand("run", "measure the cases of a sweep into a run folder, whose path it prints");
  run.add_option("SWEEP", run_sweeps,
                 "sweep files (suites/*.json) or names of them (smoke); each becomes a run of its own")
      ->required();
  add_case_options(run, run_args);
  run.add_option("--out", run_args.out,
                 "run folder (default: runs/<sweep>-<UTC time>); of several sweeps, DIR/<sweep>")
      ->group(kResult);
  run.add_flag("--resume", run_args.resume, "continue the run in --out: only what has no record yet")
      ->group(kResult);
  add_quiet(run);
  add_check_again(run, run_args);
  run.add_option("--timeout", run_args.timeout_s,
                 "seconds a case (default: ten times the predicted, at least 60)")
      ->check(CLI::PositiveNumber)
      ->group(kMeasuring);
  add_level1(run, run_args);
  run.add_option("--seed", run_args.seed, "of the order of groups and cases (default: drawn, and recorded)")
      ->group(kMeasuring);
  add_bin_dir(run, run_args.bin_dir);

  tandem::DuetArgs duet_args;
  duet_args.run.bin_dir = beside;
  CLI::App& duet = *app.add_subcommand(
      "duet", "two builds or settings in interleaved pairs of processes, until the gate has its verdicts");
  add_duet_options(duet, duet_args);

  tandem::BisectArgs bisect_args;
  bisect_args.duet.run.bin_dir = beside;
  CLI::App& bisect =
      *app.add_subcommand("bisect", "the commit at which a case became slower, by builds and duets");
  add_bisect_options(bisect, bisect_args);

  CLI::App& build = *app.add_subcommand("build-info", "what this build was made from and with, as JSON");

  tandem::GenerateArgs generate_args;
  generate_args.bin_dir = beside;
  CLI::App& generate = add_generate(app, generate_args);
  add_bin_dir(generate, generate_args.bin_dir);

  tandem::RunArgs profile_args;
  profile_args.bin_dir = beside;
  std::vector<std::string> passes = {"graph", "node", "counters", "energy"};
  CLI::App& profile = *app.add_subcommand(
      "profile",
      "where the time of a sweep's cases goes: profile passes into a run folder, whose path it prints");
  profile.add_option("SWEEP", profile_args.sweep, "sweep file (suites/*.json), or the name of one: smoke")
      ->required();
  add_case_options(profile, profile_args);
  profile.get_option("--workers")
      ->description("timed processes a case, where it is not measured yet (default: 1)");
  profile
      .add_option(
          "--out", profile_args.out,
          "run folder; one that holds a run of the sweep is continued (default: runs/<sweep>-<UTC time>)")
      ->group(kResult);
  add_quiet(profile);
  add_check_again(profile, profile_args);
  profile
      .add_option("--passes", passes,
                  "graph, node, eager (traces), counters, energy (6 s a case), separated by commas")
      ->delimiter(',')
      ->capture_default_str()
      ->group(kMeasuring);
  profile.add_option("--timeout", profile_args.timeout_s, "seconds a case and pass (default: 120)")
      ->check(CLI::PositiveNumber)
      ->group(kMeasuring);
  add_bin_dir(profile, profile_args.bin_dir);

  tandem::RunArgs list_args;
  list_args.bin_dir = beside;
  std::vector<std::string> list_sweeps;
  bool as_json = false;
  CLI::App& list = *app.add_subcommand(
      "list", "the cases of a sweep, their floors and times, which would get no time and why");
  list.add_option("SWEEP", list_sweeps, "sweep files (suites/*.json), or names of them: smoke")->required();
  add_case_options(list, list_args);
  list.add_flag("--json", as_json, "JSON instead of a table")->group(kResult);
  tandem::ListRanksArgs list_ranks;
  add_links(list, list_ranks);
  add_bin_dir(list, list_args.bin_dir);

  fs::path doctor_bin = beside;
  bool require_device = false, doctor_json = false;
  int doctor_device = 0;
  CLI::App& doctor =
      *app.add_subcommand("doctor", "what this machine has, what is missing, and what follows from it");
  doctor.add_flag("--require-device", require_device, "exit 3 without a usable device");
  doctor.add_flag("--json", doctor_json, "JSON instead of lines");
  doctor.add_option("--device", doctor_device, "device number")->check(CLI::NonNegativeNumber);
  add_bin_dir(doctor, doctor_bin);

  tandem::ReproArgs repro_args;
  repro_args.bin_dir = beside;
  CLI::App& repro =
      *app.add_subcommand("repro", "print the command of a record, run it again, compare the medians");
  repro.add_option("RECORD", repro_args.record, "a file with one record, or RUN:ID")->required();
  repro.add_option("--device", repro_args.device, "device number")->check(CLI::NonNegativeNumber);
  add_bin_dir(repro, repro_args.bin_dir);

  const std::vector<std::string> words = command_words(app, argc, argv);
  try {
    tandem::parse_flags(app, words, words[0][0] == '-' ? "tandem --help" : "tandem help " + words[0]);
  } catch (const CLI::Success& e) {
    return app.exit(e);
  }
  if (run.parsed()) return tandem::run_command(run_args, run_sweeps);
  if (duet.parsed()) return tandem::duet_command(duet_args);
  if (bisect.parsed()) return tandem::bisect_command(bisect_args);
  if (build.parsed()) return tandem::build_info_command();
  if (profile.parsed()) return tandem::profile_command(profile_args, passes);
  if (list.parsed() && !list_ranks.tp.empty())
    return tandem::list_ranks_command(list_args, list_sweeps, list_ranks, as_json);
  if (list.parsed()) return tandem::list_command(list_args, list_sweeps, as_json);
  if (doctor.parsed())
    return tandem::doctor_command({.bin_dir = doctor_bin,
                                   .device = doctor_device,
                                   .require_device = require_device,
                                   .as_json = doctor_json});
  if (generate.parsed()) return tandem::generate_command(generate_args);
  return tandem::repro_command(repro_args);
}

}  // namespace

int main(int argc, char** argv) {
  // NVML numbers cards in the order of the bus. So must every process that this one starts, or a record carries another card's
  // name: the user's own order does not count.
  ::setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 1);
  try {
    tandem::check_arguments(argc, argv);
    return run(argc, argv);
  } catch (const tandem::Error& e) {
    tandem::say(fmt::format("tandem: {}", e.what()));
    return static_cast<int>(e.exit_code());
  } catch (const std::exception& e) {
    tandem::say(fmt::format("tandem: {}", e.what()));
    return static_cast<int>(tandem::ExitCode::kCrashed);
  }
}
