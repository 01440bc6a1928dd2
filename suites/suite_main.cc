#include "suites/suite_main.h"

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <optional>

#include "harness/base/error.h"
#include "harness/base/text.h"
#include "harness/driver/commands/help.h"
#include "harness/driver/session/ceilings_store.h"
#include "harness/model/ids_file.h"
#include "harness/record/benchmark_json.h"
#include "harness/record/environment.h"
#include "harness/run/ranks/ranked_engine.h"
#include "harness/run/worker.h"
#include "harness/sweep/pattern.h"
#include "harness/sweep/sweep_spec.h"
#include "suites/engines.h"
#include "suites/rows.h"

namespace tandem {
namespace {

constexpr const char* kAbout[] = {
    "One encoder pass.",
    "One decode step: the one that appends position tgt.",
    "Encode, then tgt steps, end to end; also the mean step.",
    "Each kernel family beside its library peer.",
    "Collectives.",
    "The three memory levels.",
    "The ceilings of this machine: what floors are measured against.",
};

struct Flags {
  std::vector<std::vector<std::string>> values;  // one list an axis, in the order of axes()
  std::string cases, out, ceilings, input_ids;
  int worker = 0, attempt = 1, device = 0;
  int64_t level1_bytes = 0;
  std::string profile;
  int rank = 0, ranks = 1;  // of a process that a worker started as one of several
  std::string rendezvous;
  bool validate = false, supported = false, measure_ceilings = false;
  // Google Benchmark flags that our reporter answers
  std::string format = "console", benchmark_out, out_format = "json", filter;
};

constexpr std::string_view kNotHere =
    "not for this suite: samples are taken until their median is known; repeat whole processes with `tandem "
    "run "
    "--workers N`";

/// What the library would take from the environment, past every flag.
void refuse_benchmark_environment() {
  for (const char* name :
       {"LIST_TESTS", "FILTER", "MIN_TIME", "MIN_WARMUP_TIME", "REPETITIONS", "DRY_RUN",
        "ENABLE_RANDOM_INTERLEAVING", "REPORT_AGGREGATES_ONLY", "DISPLAY_AGGREGATES_ONLY", "FORMAT", "OUT",
        "OUT_FORMAT", "COLOR", "COUNTERS_TABULAR", "PERF_COUNTERS", "CONTEXT", "TIME_UNIT"}) {
    const std::string variable = fmt::format("BENCHMARK_{}", name);
    if (std::getenv(variable.c_str()) != nullptr)
      throw UsageError(fmt::format("{} is set in the environment: {}; unset it", variable, kNotHere));
  }
}

/// Takes the --benchmark_* flags that are ours out of argv; refuses all others, which the library would act on.
std::vector<char*> take_benchmark_flags(int argc, char** argv, Flags& flags, std::vector<std::string>& rest) {
  std::vector<char*> library = {argv[0]};
  auto value = [](const std::string& arg) {
    const size_t eq = arg.find('=');
    return eq == std::string::npos ? std::string() : arg.substr(eq + 1);
  };
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg.rfind("--benchmark_", 0) != 0) {
      rest.push_back(arg);
    } else if (arg.rfind("--benchmark_filter=", 0) == 0) {
      flags.filter = value(arg);
      if (flags.filter.empty()) throw UsageError("--benchmark_filter: empty; a regular expression of names");
    } else if (arg == "--benchmark_list_tests" || arg == "--benchmark_list_tests=true") {
      library.push_back(argv[i]);
    } else if (arg.rfind("--benchmark_format=", 0) == 0) {
      flags.format = value(arg);
      if (flags.format != "console" && flags.format != "json") {
        throw UsageError(fmt::format("--benchmark_format: '{}' is not one of console json", flags.format));
      }
    } else if (arg.rfind("--benchmark_out=", 0) == 0) {
      flags.benchmark_out = value(arg);
    } else if (arg.rfind("--benchmark_out_format=", 0) == 0) {
      if (value(arg) != "json") throw UsageError("--benchmark_out_format: only json is written");
    } else {
      throw UsageError(fmt::format("{}: {}", arg.substr(0, arg.find('=')), kNotHere));
    }
  }
  return library;
}

/// The values of one axis's flag.
std::vector<std::string>& values_of(Flags& flags, std::string_view name) {
  const auto at = std::find_if(axes().begin(), axes().end(), [&](const Axis& a) { return a.name == name; });
  return flags.values[static_cast<size_t>(at - axes().begin())];
}

/// The axes that --input-ids stands for.
void take_input_ids(Flags& flags) {
  if (flags.input_ids.empty()) return;
  const auto values = [&](std::string_view name) -> std::vector<std::string>& {
    return values_of(flags, name);
  };
  if (!values("lengths").empty()) throw UsageError("--input-ids: not together with --lengths");
  values("lengths") = {"ids:" + flags.input_ids};
  const auto sequences = read_ids(flags.input_ids);
  if (values("batch").empty()) values("batch") = {std::to_string(sequences.size())};
  size_t longest = 1;
  for (const auto& ids : sequences) longest = std::max(longest, ids.size());
  if (values("src").empty()) values("src") = {std::to_string(longest)};
}

/// Every combination of the flags' values, checked.
std::vector<Case> cases_of(Suite suite, const Flags& flags, const EngineRegistry& registry) {
  nlohmann::json group = {{"suite", suite_name(suite)}};
  std::string engine = best_engine(registry, flags.device);
  for (size_t i = 0; i < axes().size(); ++i) {
    // A comma may belong to a value, as in seed:0,outliers. `auto` is no value of a case.
    Axis axis = axes()[i];
    if (axis.name == "engine") {
      axis.set = [&, set = axis.set](Case& c, const std::string& v) { set(c, v == "auto" ? engine : v); };
    }
    std::vector<std::string> values;
    for (const std::string& text : flags.values[i]) {
      for (const std::string& v : split_values(axis, text))
        values.push_back(axis.name == "engine" && v == "auto" ? engine : v);
    }
    if (values.empty()) continue;
    nlohmann::json list = nlohmann::json::array();
    for (const std::string& v : values) {
      if (axes()[i].integer) {
        Case probe;
        axes()[i].set(probe, v);  // says what is wrong with it
        list.push_back(std::stoll(v));
      } else {
        list.push_back(v);
      }
    }
    group[std::string(axes()[i].name)] = list;
  }
  const SweepCases expanded = expand_sweep(
      {{"groups", {group}}}, {.engine = engine, .device = registry.device_usable(flags.device, nullptr)});
  if (expanded.cases.empty() && !expanded.skipped.empty()) {
    for (const SkippedCase& s : expanded.skipped) {
      if (s.for_device) throw DeviceError(s.reason);
    }
    throw ImpossibleCase(expanded.skipped.front().reason);
  }
  for (const SkippedCase& s : expanded.skipped) {
    std::cerr << "skipped " << case_name(s.c) << ": " << s.reason << '\n';
  }
  return expanded.cases;
}

/// Where this process stands among several: a worker says it in flags, mpirun and srun in variables.
std::optional<LaunchedRank> rank_of(const Flags& flags) {
  if (flags.rendezvous.empty()) return launched_rank([](const char* name) { return std::getenv(name); });
  return LaunchedRank{
      .rank = flags.rank, .size = flags.ranks, .rendezvous = flags.rendezvous, .by = "--ranks"};
}

/// The cases that --benchmark_filter keeps, by the names of our rows and JSON; with a leading '-', all others, and with `all`
/// every one, as the library has it. A whole name between ^ and $ is that case, whatever its characters mean in an
/// expression.
std::vector<Case> filtered(const std::vector<Case>& cases, const std::string& filter) {
  if (filter.empty() || filter == "all") return cases;
  const bool inverse = filter.front() == '-';
  const std::string expression = filter.substr(inverse ? 1 : 0);
  std::optional<Pattern> pattern;
  try {
    pattern.emplace(expression);
  } catch (const UsageError& e) {
    throw UsageError(fmt::format("--benchmark_filter: {}", e.what()));
  }
  std::vector<Case> kept;
  for (const Case& c : cases) {
    const std::string name = case_name(c);
    if ((pattern->in(name) || expression == "^" + name + "$" || expression == name) != inverse)
      kept.push_back(c);
  }
  if (kept.empty()) {
    throw UsageError(fmt::format(
        "--benchmark_filter: '{}' matches none of the {} cases; --benchmark_list_tests shows them", filter,
        cases.size()));
  }
  return kept;
}

/// Google Benchmark prints nothing itself: rows and JSON are ours.
class Silent : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>&) override {}
};

int run_by_hand(Suite suite, Flags& flags, std::vector<char*> library, WorkerOptions options,
                const EngineRegistry& registry) {
  refuse_benchmark_environment();
  const std::vector<Case> cases = filtered(cases_of(suite, flags, registry), flags.filter);
  // One worker for the card and one for the CPU: a floor stands on the ceilings of what computes the case.
  std::map<bool, Worker> workers;
  std::optional<CardInfo> device;
  for (const Case& c : cases) {
    const auto card = card_of(registry, c.engine, flags.device);
    if (card) device = card;
    const bool known =
        card || engine_traits(c.engine).on_host;  // not the CPU's for a card that NVML does not list
    if (flags.ceilings.empty())
      options.ceilings = (known ? stored_ceilings(card) : std::nullopt).value_or(Ceilings{});
    workers.try_emplace(engine_traits(c.engine).on_host, registry, options);
  }
  std::vector<Record> records;
  size_t width = 0;
  for (const Case& c : cases) width = std::max(width, case_name(c).size());
  const bool rows = flags.format == "console";
  for (const Case& c : cases) {
    benchmark::RegisterBenchmark(case_name(c).c_str(),
                                 [&, c](benchmark::State& state) {
                                   Worker& worker = workers.at(engine_traits(c.engine).on_host);
                                   for (auto _ : state) {
                                     const Record r = worker.measure_case(c, worker.validate_case(c));
                                     if (r.status == Status::kOk) {
                                       state.SetIterationTime(r.summary->median_us * 1e-6);
                                     } else {
                                       state.SkipWithError(r.reason.value_or("failed").c_str());
                                     }
                                     if (rows) fmt::print("{}\n", row_of(r, width));
                                     records.push_back(r);
                                   }
                                 })
        ->Iterations(1)
        ->UseManualTime();
  }
  int count = static_cast<int>(library.size());
  benchmark::Initialize(&count, library.data());
  if (count > 1) throw UsageError(fmt::format("unknown flag {} (see --help)", library[1]));
  Silent silent;
  benchmark::RunSpecifiedBenchmarks(&silent);
  benchmark::Shutdown();

  if (flags.format == "json" || !flags.benchmark_out.empty()) {
    const std::string text = benchmark_json(capture_environment({.device = device}), records).dump(2);
    if (flags.format == "json") fmt::print("{}\n", text);
    if (!flags.benchmark_out.empty()) {
      std::ofstream out(flags.benchmark_out);
      out << text << '\n';
      out.close();
      if (!out) throw IoError(fmt::format("--benchmark_out: cannot write '{}'", flags.benchmark_out));
    }
  }
  bool measured = false;
  for (const Record& r : records) {
    if (r.status != Status::kOk && r.status != Status::kSkipped) return static_cast<int>(ExitCode::kFailed);
    measured |= r.status == Status::kOk;
  }
  if (!measured && !records.empty()) return static_cast<int>(ExitCode::kUsage);
  return static_cast<int>(ExitCode::kGood);
}

int run(Suite suite, int argc, char** argv) {
  Flags flags;
  std::vector<std::string> rest;
  const std::vector<char*> library = take_benchmark_flags(argc, argv, flags, rest);

  CLI::App app(fmt::format("suite_{}: {} Every case is checked before it is timed.", suite_name(suite),
                           kAbout[static_cast<int>(suite)]),
               fmt::format("suite_{}", suite_name(suite)));
  app.footer(
      "\nLists are separated by commas; every combination is a case. Google Benchmark's flags work too: "
      "--benchmark_filter=RE, --benchmark_list_tests, --benchmark_format=console|json, "
      "--benchmark_out=FILE.\n" +
      std::string(kExitCodes));
  app.formatter(std::make_shared<HelpFormatter>());
  app.set_version_flag("--version", fmt::format("suite_{} {}", suite_name(suite), version_text()),
                       "the version");
  const Case defaults;
  auto by_default = [&](const Axis& a) -> std::string {
    if (a.name == "op") return "all of the suite's";
    return a.name == "engine" ? "the best one here" : a.get(defaults);
  };
  flags.values.resize(axes().size());
  for (size_t i = 0; i < axes().size(); ++i) {
    const Axis& a = axes()[i];
    app.add_option(fmt::format("--{}", a.name), flags.values[i],
                   fmt::format("{} [{}] (default: {})", a.help, a.allowed, by_default(a)))
        ->group("Axes");
  }
  if (suite == Suite::kEncoder || suite == Suite::kGenerate) {
    app.add_option("--input-ids", flags.input_ids,
                   "file of sources, one sequence of ids a line: --lengths ids:FILE, with --batch the number "
                   "of lines and "
                   "--src the longest where they are not given");
  }
  app.add_option("--device", flags.device, "device number")->check(CLI::NonNegativeNumber);
  app.add_option("--level1-bytes", flags.level1_bytes,
                 "bytes that the Level-1 cache may hold (default: 24 GiB, or what shared memory has free)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--ceilings", flags.ceilings,
                 "file of measured rates for the floors (see --measure-ceilings)");
  app.add_option("--cases", flags.cases, "worker: JSON array of cases to measure, in that order")
      ->group("Worker");
  app.add_option("--worker", flags.worker, "worker: index of this process")->group("Worker");
  app.add_option("--attempt", flags.attempt, "worker: attempt of this process")->group("Worker");
  app.add_option("--out", flags.out, "worker: run folder")->group("Worker");
  app.add_flag("--validate", flags.validate, "worker: the validation pass instead of timing")
      ->group("Worker");
  app.add_flag("--supported", flags.supported,
               "worker: say which cases the engine can compute, measure nothing")
      ->group("Worker");
  app.add_option("--profile", flags.profile,
                 "worker: a profile pass instead of timing: graph, node, eager, counters or energy")
      ->group("Worker");
  app.add_option("--rank", flags.rank)->group("");
  app.add_option("--ranks", flags.ranks)->group("");
  app.add_option("--rendezvous", flags.rendezvous)->group("");
  if (suite == Suite::kLimits) {
    app.add_flag("--measure-ceilings", flags.measure_ceilings,
                 "measure this machine's rates and print them as JSON");
  }
  try {
    parse_flags(app, rest, fmt::format("suite_{} --help", suite_name(suite)));
  } catch (const CLI::Success& e) {
    return app.exit(e);
  }

  const EngineRegistry registry = engine_registry();
  const auto launched = rank_of(flags);
  if (launched) flags.device += flags.rendezvous.empty() ? launched->local_rank : 0;
  if (launched && launched->rank > 0) {
    const auto world = join_ranks(launched->rendezvous,
                                  {.rank = launched->rank, .size = launched->size, .build = own_build()});
    return follow(*world, registry, {.device = flags.device});
  }
  take_input_ids(flags);
  WorkerOptions options;
  options.engine = {.device = flags.device,
                    .run_dir = flags.out,
                    .may_search = flags.validate || flags.cases.empty() || !flags.profile.empty(),
                    .level1_bytes = flags.level1_bytes};
  options.ranks.launched = launched;
  options.worker = flags.worker;
  options.attempt = flags.attempt;
  options.run_dir = flags.out;
  if (flags.measure_ceilings) {
    const std::vector<std::string>& engines = values_of(flags, "engine");
    if (engines.size() > 1) throw UsageError("--engine: --measure-ceilings takes one engine");
    const bool best = engines.empty() || engines[0] == "auto";
    const std::string engine = best ? best_engine(registry, flags.device) : engines[0];
    fmt::print("{}\n", nlohmann::json(measure_ceilings(engine, options.engine)).dump());
    return static_cast<int>(ExitCode::kGood);
  }
  if (!flags.ceilings.empty()) {
    options.ceilings = read_ceilings(flags.ceilings);
    if (const auto wrong = contradictions(options.ceilings); !wrong.empty()) {
      throw UsageError(fmt::format("--ceilings: {}: they contradict themselves: {}", flags.ceilings,
                                   fmt::join(wrong, "; ")));
    }
  }
  if (!flags.cases.empty()) {
    const ServeMode mode =
        flags.supported  ? (flags.profile.empty() ? ServeMode::kSupported : ServeMode::kProfileSupported)
        : flags.validate ? ServeMode::kValidate
        : !flags.profile.empty() ? ServeMode::kProfile
                                 : ServeMode::kMeasure;
    const ProfilePass pass = flags.profile.empty() ? ProfilePass::kNode : parse_pass(flags.profile);
    if (flags.out.empty() && !flags.supported) {
      throw UsageError("--cases: needs --out DIR, the run folder");
    }
    Worker worker(registry, options);
    serve_cases(worker, flags.cases, mode, std::cout, pass);
    return static_cast<int>(ExitCode::kGood);
  }
  return run_by_hand(suite, flags, library, std::move(options), registry);
}

}  // namespace

int suite_main(Suite suite, int argc, char** argv) {
  try {
    check_arguments(argc, argv);
    return run(suite, argc, argv);
  } catch (const Error& e) {
    std::cerr << "suite_" << suite_name(suite) << ": " << e.what() << '\n';
    return static_cast<int>(e.exit_code());
  } catch (const std::exception& e) {
    std::cerr << "suite_" << suite_name(suite) << ": " << e.what() << '\n';
    return static_cast<int>(ExitCode::kFailed);
  }
}

}  // namespace tandem
