#include "harness/run/worker.h"

#include <fmt/format.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/base/sha256.h"
#include "harness/engine/calibration.h"
#include "harness/record/environment.h"
#include "harness/run/case_cost.h"
#include "harness/run/energy.h"
#include "harness/run/ranks/ranked_clocks.h"
#include "harness/run/ranks/ranked_engine.h"
#include "harness/run/ranks/ranked_trace.h"
#include "harness/run/sampling/plant.h"

namespace tandem {
namespace {

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Runs `body`, turning what it throws into the record's status.
template <typename Body>
void guarded(Record& r, Body&& body) {
  try {
    body();
  } catch (const ImpossibleCase& e) {
    r.status = Status::kSkipped;
    r.reason = e.what();
  } catch (const OutOfMemory& e) {
    r.status = Status::kOom;
    r.reason = e.what();
  } catch (const CudaError&) {
    throw;  // sticky: only a new process recovers; the driver sees this one die
  } catch (const RankLost& e) {
    r.status = Status::kRankLost;
    r.reason = e.what();
  } catch (const Error& e) {
    r.status = Status::kError;
    r.reason = e.what();
  }
  if (r.status != Status::kOk) {
    r.samples.reset();
    r.summary.reset();
    r.metrics = {};
    r.floor.ratio.reset();
  }
}

/// Of one replica: source tokens of an encoder's pass, generated ones otherwise.
double tokens_of(const Case& c, const TransformerBatch& batch) {
  if (c.suite == Suite::kEncoder) return static_cast<double>(batch.tokens());
  return c.suite == Suite::kGenerate ? static_cast<double>(c.batch) * c.tgt : c.batch;
}

}  // namespace

nlohmann::json profile_supported(const Case& c, ProfilePass pass) {
  const bool on_host = engine_traits(c.engine).on_host;
  return {{"id", case_id(c)},
          {"name", case_name(c)},
          {"pass", pass_name(pass)},
          {"status", on_host ? "unavailable" : "ok"},
          {"reason", on_host ? nlohmann::json(fmt::format(
                                   "engine '{}' runs on the CPU; profiles are of a card", c.engine))
                             : nlohmann::json()}};
}

std::optional<bool> profiler_mapped() {
  std::ifstream maps("/proc/self/maps");
  if (!maps) return std::nullopt;
  for (std::string line; std::getline(maps, line);) {
    if (line.find("libcupti") != std::string::npos) return true;
  }
  return false;
}

Worker::Worker(const EngineRegistry& registry, WorkerOptions options)
    : registry_(registry), options_(std::move(options)) {
  options_.ranks.device = options_.engine.device;
  if (const auto& launched = options_.ranks.launched)
    team_ = std::make_unique<RankTeam>(launched->size, options_.ranks);
}
Worker::~Worker() = default;

Engine& Worker::engine_for(const Case& c) {
  if (beyond_use_) throw Error(*beyond_use_);
  if (engine_ && engine_name_ == c.engine && tp_ == c.tp && dp_ == c.dp) return *engine_;
  const int ranks = c.tp * c.dp;
  checks_.reset();
  engine_.reset();
  loaded_group_.clear();
  if (const auto& launched = options_.ranks.launched; launched && launched->size != ranks) {
    throw UsageError(fmt::format("tp {} x dp {}: {} rank{} contradict{} {} {}", c.tp, c.dp, ranks,
                                 ranks == 1 ? "" : "s", ranks == 1 ? "s" : "", launched->by, launched->size));
  }
  if (ranks == 1) {
    team_.reset();
    engine_ = registry_.make(c.engine, options_.engine);
  } else {
    check_devices(c);
    if (!team_ || team_->size() != ranks) {
      team_.reset();
      team_ = std::make_unique<RankTeam>(ranks, options_.ranks);
    }
    engine_ = make_ranked_engine(*team_, registry_, c.engine, options_.engine, c.tp, c.dp, options_.nvml());
  }
  engine_->expect(expected_);
  settling_ = {};
  engine_name_ = c.engine;
  tp_ = c.tp;
  dp_ = c.dp;
  clocks_ =
      engine_->traits().on_host ? std::make_unique<NoClocks>() : make_clock_reader(options_.nvml(), card());
  if (ranks > 1 && !engine_->traits().on_host)
    clocks_ = std::make_unique<RankedClocks>(*team_, std::move(clocks_));
  return *engine_;
}

/// Throws ImpossibleCase with the count where this host has fewer devices than ranks. A launcher may use several hosts.
void Worker::check_devices(const Case& c) const {
  const int ranks = c.tp * c.dp;
  if (ranks == 1 || options_.ranks.launched || engine_traits(c.engine).on_host) return;
  int found = 0;
  while (found < ranks && registry_.device_usable(options_.engine.device + found, nullptr)) ++found;
  if (found == ranks) return;
  throw ImpossibleCase(fmt::format("tp {} x dp {} needs {} devices, there {} {}", c.tp, c.dp, ranks,
                                   found == 1 ? "is" : "are", found));
}

/// After a call that left ranks out of step: the next case gets new ones, those that this process started end.
void Worker::give_up_broken_team(const std::optional<std::string>& reason) {
  if (!team_ || team_->usable()) return;
  if (options_.ranks.launched) beyond_use_ = reason.value_or("ranks: an earlier case has failed");
  checks_.reset();
  engine_.reset();
  loaded_group_.clear();
  team_.reset();
}

/// The card that an engine of this process uses.
std::optional<CardInfo> Worker::card() const {
  const int device = options_.engine.device;
  return card_in_use(options_.nvml(), registry_.card_uuid(device), device);
}

void Worker::check_supported(const Case& c) {
  if (c.tp * c.dp == 1) return engine_for(c).check_supported(c);
  check_devices(c);
  registry_.make(c.engine, options_.engine)->check_supported(c);  // no ranks are started for a question
}

/// Of the group of `c`; those of another group are freed.
GroupChecks& Worker::checks_of(const Case& c, int64_t max_logits) {
  if (checks_ && checked_group_ == group_key(c)) return *checks_;
  const auto reference = [this] { return registry_.make(std::string(kTruthEngine), options_.engine); };
  checks_ = std::make_unique<GroupChecks>(*engine_, reference, 2 * max_logits);
  checked_group_ = group_key(c);
  return *checks_;
}

Validation Worker::validate_case(const Case& c) {
  loaded_group_.clear();  // validation loads witnesses and fp32 twins over whatever was there
  ValidateOptions options;
  options.accuracies = &accuracies_;
  Validation v;
  v.id = case_id(c);
  try {
    Engine& engine = engine_for(c);
    options.shared = &checks_of(c, options.max_logits);
    v = validate(c, engine, options);
  } catch (const ImpossibleCase& e) {
    v.status = Status::kSkipped;
    v.reason = e.what();
  } catch (const RankLost& e) {
    v.status = Status::kRankLost;
    v.reason = e.what();
  }
  give_up_broken_team(v.reason);
  return v;
}

std::map<std::string, Validation> Worker::read_validations() const {
  std::map<std::string, Validation> found;
  const std::string path = options_.run_dir + "/validation.jsonl";
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (in.eof()) break;  // unterminated: a kill cut it off
    try {
      Validation v = validation_from_json(parse_json(line));
      found.insert_or_assign(v.id, std::move(v));
    } catch (const UsageError& e) {
      throw UsageError(fmt::format("{}: {}", path, e.what()));
    }
  }
  return found;
}

void Worker::store_samples(const std::vector<float>& samples, Record& r) {
  const std::string_view bytes(reinterpret_cast<const char*>(samples.data()), samples.size() * sizeof(float));
  const std::string file = fmt::format("samples/{}-{}.f32", r.id, r.worker);
  if (options_.run_dir.empty()) return;
  const std::filesystem::path path = std::filesystem::path(options_.run_dir) / file;
  std::error_code ec;
  std::filesystem::create_directories(path.parent_path(), ec);
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  if (!out) throw IoError(fmt::format("{}: cannot write samples: {}", path.string(), std::strerror(errno)));
  r.samples = SamplesRef{file, static_cast<int64_t>(samples.size()), sha256_hex(bytes)};
}

void Worker::take_samples(Workload& workload, Record& r) {
  MeasureOptions options = default_options(engine_->traits());
  options.settling = &settling_;
  const MarkedRange measured("measured");
  // Under scripts/nsys: its phases fire where work is enqueued, not where a graph replays it. Once without graphs, so that a
  // reader of the export can tell them.
  if (std::getenv("TANDEM_NSYS") != nullptr) workload.repeat_eager();
  if (options_.plant_percent > 0)
    r.planted = plant(workload, options_.plant_percent, plant_options(engine_->traits()));
  Measurement m = measure(workload, *clocks_, options);
  r.kernels = workload.kernels();
  const auto* ranked = dynamic_cast<const RankedTimes*>(&workload);
  if (ranked != nullptr) r.ranks = ranked->ranks(m.samples_us.size(), m.blocks.size());
  if (const auto* of_ranks = dynamic_cast<const RankedClocks*>(clocks_.get()))
    of_ranks->fill(r.ranks, m.blocks.size());
  r.summary = summarize(m.samples_us);
  auto median = [](std::vector<float>& v) -> std::optional<double> {
    if (v.empty()) return std::nullopt;
    return summarize(v).median_us;
  };
  r.metrics.step_us = median(m.step_us);
  r.metrics.first_token_us = median(m.first_token_us);
  r.metrics.sm_cycles = m.sm_cycles;
  r.metrics.graph_build_us = workload.graph_build_us();
  r.warmup_repetitions = m.warmup_repetitions;
  r.warmup_s = m.warmup_s;
  r.warmup_steady = m.warmup_steady;
  r.warmup_confirmed = m.warmup_confirmed;
  r.stop_rule = "half width of the 95 % interval of the median, from blocks";
  r.stop_target = options.stop.target;
  r.stop_reached = m.target_reached;
  r.contended = m.contended;
  const bool on_host = engine_->traits().on_host;
  if (!on_host) {
    r.clock_blocks = std::move(m.blocks);
    r.throttled_samples = m.throttled_samples;
    r.clock_state = m.clock_state;
  }
  if (on_host) {
    r.regime = "cpu";
  } else if (m.warmup_steady && m.clock_state && *m.clock_state != ClockState::kNotSettled) {
    r.regime = "sustained";
  }
  r.peak_bytes = workload.peak_bytes();
  r.planned_bytes = workload.planned_bytes();
  r.profiler_mapped = profiler_mapped();
  store_samples(m.samples_us, r);
}

void Worker::load(const Case& c, const ModelConfig& config) {
  Engine& engine = engine_for(c);
  engine.check_supported(c);
  if (loaded_group_ == group_key(c)) return;
  loaded_group_.clear();
  if (checks_) {
    checks_->own().load(c, config, weight_form(c), Purpose::kCase);
  } else {
    load_case(engine, c, config, weight_form(c));
  }
  loaded_group_ = group_key(c);
}

/// Percentiles from token to token. After the check of the output, which belongs to the timed samples.
static void measure_inter_token(Workload& workload, Record& r) {
  constexpr size_t kEnough = 400;
  constexpr int kMostPasses = 8;
  std::vector<float> all;
  for (int pass = 0; pass < kMostPasses && all.size() < kEnough; ++pass) {
    const std::vector<float> times = workload.inter_token_us();
    if (times.empty()) break;
    all.insert(all.end(), times.begin(), times.end());
  }
  if (all.empty()) return;
  const Summary s = summarize(all);
  r.metrics.inter_token_p50_us = s.median_us;
  r.metrics.inter_token_p95_us = s.p95_us;
  r.metrics.inter_token_p99_us = s.p99_us;
}

void Worker::measure_model(const Case& c, const Validation& validation, Record& r) {
  const ModelConfig config = load_model(c.model);
  Engine& engine = engine_for(c);
  load(c, config);
  const TransformerBatch batch = case_batch(c, config);
  const auto workload = engine.prepare(c, batch);
  take_samples(*workload, r);
  r.metrics.load_us = engine.load_us();
  r.weights_bytes = engine.weights_bytes();
  const std::optional<WeightCount> count = engine.weight_count();
  if (c.sparsity == "dense") {
    r.fraction_kept = 1;
  } else if (count) {
    r.fraction_kept = count->fraction_kept();
    r.pruned = PrunedRow{
        .removed = count->removed,
        .products_kept = static_cast<double>(count->products_kept) / static_cast<double>(count->products),
        .kernels = workload->sparse_kernels()};
  }

  const std::string after = digest(workload->output());
  r.check->digest_after = after;
  if (validation.check->digest != after) {
    r.status = Status::kInvalid;
    r.reason =
        fmt::format("the output after timing (SHA-256 {:.12}) is not the one that was checked ({:.12})",
                    after, validation.check->digest.value_or("none"));
    return;
  }
  if (const auto* ranked = dynamic_cast<const RankedTimes*>(workload.get())) {
    if (const std::string why = ranked->disagreement(); !why.empty()) {
      r.status = Status::kInvalid;
      r.reason = why;
      return;
    }
  }
  measure_inter_token(*workload, r);
  r.status = Status::kOk;
  know_links(c, r);
  fill_cost(r, config, options_.ceilings,
            registry_.l2_bytes(engine.traits().on_host ? -1 : options_.engine.device));
  r.metrics.tokens_per_second = c.dp * tokens_of(c, batch) / r.summary->median_us * 1e6;
  r.choices_sha256 = engine.choices_sha256().empty() ? std::nullopt : std::optional(engine.choices_sha256());
}

/// What ranks that share a model exchange is counted at the rate of their cards' links.
void Worker::know_links(const Case& c, Record& r) const {
  if (c.tp == 1 || engine_->traits().on_host) return;
  if (const auto used = card()) r.floor.link_gbs = nvlink_gbs(*used);
}

void Worker::measure_op(const Case& c, Record& r) {
  Engine& engine = engine_for(c);
  engine.check_supported(c);
  OpWorkload op = engine.prepare_op(c, load_model(c.model));
  take_samples(*op.workload, r);
  const CheckResult after = op.check();
  if (!after.ok()) {
    r.status = Status::kInvalid;
    r.reason = fmt::format("after timing: error {:.3g} over {:.3g} against {}: {}", after.error,
                           after.tolerance, after.reference, after.where);
    return;
  }
  r.status = Status::kOk;
  const double seconds = r.summary->median_us * 1e-6;
  const double bytes = op.bytes_read + op.bytes_written;
  if (bytes > 0) {
    r.bytes = bytes;
    r.metrics.gigabytes_per_second = bytes / seconds * 1e-9;
  }
  if (op.flops > 0) {
    r.flops = op.flops;
    r.metrics.teraflops = op.flops / seconds * 1e-12;
  }
  r.fraction_kept = op.fraction_kept;
  know_links(c, r);
  fill_op_floor(r, op, options_.ceilings);
  r.choices_sha256 = engine.choices_sha256().empty() ? std::nullopt : std::optional(engine.choices_sha256());
}

Record Worker::measure_case(const Case& c, const Validation& validation) {
  const double start = steady_seconds();
  Record r = make_record(c, options_.worker, options_.attempt);
  r.started = utc_now();
  r.check = validation.check;
  r.accuracy = validation.accuracy;
  if (validation.status != Status::kOk) {
    r.status = validation.status;
    r.reason = validation.reason;
  } else if (const auto fault = accuracy_fault(c, validation.accuracy)) {
    r.status = Status::kError;
    r.reason = fault;
  } else {
    guarded(r, [&] {
      if (is_op_suite(c.suite)) {
        measure_op(c, r);
      } else {
        measure_model(c, validation, r);
      }
    });
  }
  give_up_broken_team(r.reason);
  r.wall_s = steady_seconds() - start;
  return r;
}

nlohmann::json Worker::profile_subject(const ProfileSubject& subject, ProfilePass pass) {
  const bool several = subject.c.tp * subject.c.dp > 1;
  if (pass == ProfilePass::kCounters) return counters_pass(subject, *tracer_);
  if (pass == ProfilePass::kEnergy) {
    const auto own = energy_counter(options_.nvml(), card());
    return measure_energy(*subject.workload, {.tokens = subject.c.dp * subject.tokens,
                                              .joules =
                                                  [&] {
                                                    if (several) return joules_of_ranks(*team_, own());
                                                    return std::vector{own()};
                                                  },
                                              .now = steady_seconds});
  }
  return trace_pass(subject, pass, several ? *trace_all_ranks(*team_, *tracer_) : *tracer_);
}

nlohmann::json Worker::profile_case(const Case& c, ProfilePass pass) {
  // Before any engine is made: the tracer comes first.
  nlohmann::json never = profile_supported(c, pass);
  if (never["status"] != "ok") return never;
  // No profiler is there while energy is read.
  if (!tracer_ && pass != ProfilePass::kEnergy) {
    options_.engine.trace_level = pass == ProfilePass::kGraph ? TraceLevel::kGraph : TraceLevel::kNode;
    tracer_ = load_tracer({.level = *options_.engine.trace_level});
  }
  nlohmann::json line = {{"status", "ok"}, {"reason", nullptr}};
  Record r = make_record(c, options_.worker, options_.attempt);
  r.status = Status::kOk;
  guarded(r, [&] {
    const ModelConfig config = load_model(c.model);
    ProfileSubject subject{.c = c, .ceilings = options_.ceilings, .run_dir = options_.run_dir};
    if (is_op_suite(c.suite)) {
      Engine& engine = engine_for(c);
      engine.check_supported(c);
      const OpWorkload op = engine.prepare_op(c, config);
      subject.workload = op.workload.get();
      line = profile_subject(subject, pass);
    } else {
      load(c, config);
      const TransformerBatch batch = case_batch(c, config);
      const auto workload = engine_->prepare(c, batch);
      const Cost cost = case_cost(c, config);
      subject.workload = workload.get();
      subject.cost = &cost;
      subject.tokens = tokens_of(c, batch);
      line = profile_subject(subject, pass);
    }
  });
  if (r.status != Status::kOk) line = {{"status", status_name(r.status)}, {"reason", *r.reason}};
  give_up_broken_team(r.reason);
  line["id"] = case_id(c);
  line["name"] = case_name(c);
  line["pass"] = pass_name(pass);
  return line;
}

}  // namespace tandem
