#include "harness/record/record.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/record/json_fields.h"
#include "harness/record/json_schema.h"
#include "harness/record/ranks_json.h"

namespace tandem {
namespace {

using nlohmann::json;

constexpr std::array<std::string_view, 8> kStatusNames = {"ok",      "invalid", "skipped",   "oom",
                                                          "crashed", "timeout", "rank_lost", "error"};

constexpr std::array<std::string_view, 3> kClockStateNames = {"settled", "not settled", "throttled"};

/// `j` where any of its values is known, otherwise null.
json known_or_null(json j) {
  for (const auto& [key, value] : j.items()) {
    if (!value.is_null()) return j;
  }
  return {};
}

/// The object under `key`, or an empty one.
const json& part(const json& j, const char* key) {
  static const json empty = json::object();
  const auto it = j.find(key);
  return it != j.end() && it->is_object() ? *it : empty;
}

json summary_to_json(const Summary& s) {
  json ci;
  if (s.ci95_lo_us && s.ci95_hi_us) ci = {*s.ci95_lo_us, *s.ci95_hi_us};
  return {{"n", s.n},           {"median_us", s.median_us},  {"q1_us", s.q1_us}, {"q3_us", s.q3_us},
          {"min_us", s.min_us}, {"p95_us", maybe(s.p95_us)}, {"ci95_us", ci},    {"p99_us", maybe(s.p99_us)}};
}

Summary summary_from_json(const json& j) {
  Summary s;
  s.n = j.at("n").get<int64_t>();
  s.median_us = j.at("median_us").get<double>();
  auto or_median = [&](const char* key) {
    return j.at(key).is_null() ? s.median_us : j.at(key).get<double>();
  };
  s.q1_us = or_median("q1_us");
  s.q3_us = or_median("q3_us");
  s.min_us = or_median("min_us");
  read(j, "p95_us", s.p95_us);
  read(j, "p99_us", s.p99_us);
  if (j.at("ci95_us").is_array()) {
    s.ci95_lo_us = j["ci95_us"][0].get<double>();
    s.ci95_hi_us = j["ci95_us"][1].get<double>();
  }
  return s;
}

json metrics_to_json(const Metrics& m) {
  return known_or_null({{"step_us", maybe(m.step_us)},
                        {"first_token_us", maybe(m.first_token_us)},
                        {"sm_cycles", maybe(m.sm_cycles)},
                        {"inter_token_p50_us", maybe(m.inter_token_p50_us)},
                        {"inter_token_p95_us", maybe(m.inter_token_p95_us)},
                        {"inter_token_p99_us", maybe(m.inter_token_p99_us)},
                        {"tokens_per_second", maybe(m.tokens_per_second)},
                        {"graph_build_us", maybe(m.graph_build_us)},
                        {"load_us", maybe(m.load_us)},
                        {"gigabytes_per_second", maybe(m.gigabytes_per_second)},
                        {"teraflops", maybe(m.teraflops)}});
}

void metrics_from_json(const json& j, Metrics& m) {
  read(j, "step_us", m.step_us);
  read(j, "first_token_us", m.first_token_us);
  read(j, "sm_cycles", m.sm_cycles);
  read(j, "inter_token_p50_us", m.inter_token_p50_us);
  read(j, "inter_token_p95_us", m.inter_token_p95_us);
  read(j, "inter_token_p99_us", m.inter_token_p99_us);
  read(j, "tokens_per_second", m.tokens_per_second);
  read(j, "graph_build_us", m.graph_build_us);
  read(j, "load_us", m.load_us);
  read(j, "gigabytes_per_second", m.gigabytes_per_second);
  read(j, "teraflops", m.teraflops);
}

json floor_to_json(const FloorRow& f) {
  return known_or_null({{"floor_us", maybe(f.floor_us)},
                        {"floor_phases_us", maybe(f.floor_phases_us)},
                        {"floor_l2_us", maybe(f.floor_l2_us)},
                        {"step_floor_us", maybe(f.step_floor_us)},
                        {"ratio", maybe(f.ratio)},
                        {"bound", maybe(f.bound)},
                        {"link_gbs", maybe(f.link_gbs)},
                        {"links_us", maybe(f.links_us)}});
}

void floor_from_json(const json& j, FloorRow& f) {
  read(j, "floor_us", f.floor_us);
  read(j, "floor_phases_us", f.floor_phases_us);
  read(j, "floor_l2_us", f.floor_l2_us);
  read(j, "step_floor_us", f.step_floor_us);
  read(j, "ratio", f.ratio);
  read(j, "bound", f.bound);
  read(j, "link_gbs", f.link_gbs);
  read(j, "links_us", f.links_us);
}

json model_to_json(const ModelRow& m) {
  json degrees = json::array();
  for (const ModelRow::Degree& d : m.degrees)
    degrees.push_back(
        {{"tp", d.tp}, {"sample_us", d.sample_us}, {"comm_us", d.comm_us}, {"step_us", maybe(d.step_us)}});
  return {{"card_gbs", m.card_gbs}, {"call_us", m.call_us}, {"degrees", std::move(degrees)}};
}

ModelRow model_from_json(const json& j) {
  ModelRow m{.card_gbs = j.at("card_gbs").get<double>(), .call_us = j.at("call_us").get<double>()};
  for (const json& d : j.at("degrees")) {
    m.degrees.push_back({.tp = d.at("tp").get<int>(),
                         .sample_us = d.at("sample_us").get<double>(),
                         .comm_us = d.at("comm_us").get<double>()});
    read(d, "step_us", m.degrees.back().step_us);
  }
  return m;
}

json cost_to_json(const Record& r) {
  if (!r.bytes && !r.flops) return {};
  json phases = json::array();
  for (const PhaseRow& p : r.phases) {
    json& row = phases.emplace_back(json{{"side", p.side},
                                         {"phase", p.phase},
                                         {"bytes_read", p.bytes_read},
                                         {"bytes_written", p.bytes_written},
                                         {"flops", p.flops}});
    if (p.link_bytes > 0) row["link_bytes"] = p.link_bytes;
  }
  json cost = {{"phases", phases}};
  if (r.bytes) cost["bytes"] = *r.bytes;
  if (r.flops) cost["flops"] = *r.flops;
  return cost;
}

void cost_from_json(const json& j, Record& r) {
  read(j, "bytes", r.bytes);
  read(j, "flops", r.flops);
  for (const json& p : j.value("phases", json::array())) {
    r.phases.push_back({.side = p.at("side").get<std::string>(),
                        .phase = p.at("phase").get<std::string>(),
                        .bytes_read = p.at("bytes_read").get<double>(),
                        .bytes_written = p.at("bytes_written").get<double>(),
                        .flops = p.at("flops").get<double>(),
                        .link_bytes = p.value("link_bytes", 0.0)});
  }
}

json pruned_to_json(const PrunedRow& p) {
  json removed = json::array();
  for (const RemovedPart& part : p.removed) {
    json& row = removed.emplace_back(json{{"what", part.what}, {"removed", part.removed}, {"of", part.of}});
    if (!part.which.empty()) row["which"] = part.which;
  }
  return {{"removed", std::move(removed)}, {"products_kept", maybe(p.products_kept)}, {"kernels", p.kernels}};
}

json planted_to_json(const PlantedRow& p) {
  return {{"percent", p.percent},
          {"grown_percent", p.grown_percent},
          {"standard_error_percent", p.standard_error_percent},
          {"amount", p.amount}};
}

PlantedRow planted_from_json(const json& j) {
  return {.percent = j.at("percent").get<double>(),
          .grown_percent = j.at("grown_percent").get<double>(),
          .standard_error_percent = j.at("standard_error_percent").get<double>(),
          .amount = j.at("amount").get<double>()};
}

PrunedRow pruned_from_json(const json& j) {
  PrunedRow p{.kernels = j.at("kernels").get<std::vector<std::string>>()};
  read(j, "products_kept", p.products_kept);
  for (const json& row : j.at("removed")) {
    p.removed.push_back({.what = row.at("what").get<std::string>(),
                         .removed = row.at("removed").get<int64_t>(),
                         .of = row.at("of").get<int64_t>(),
                         .which = row.value("which", std::vector<int>())});
  }
  return p;
}

json clocks_to_json(const Record& r) {
  if (r.clock_blocks.empty()) return {};
  json blocks = json::array();
  std::vector<double> mhz;
  for (const ClockBlock& b : r.clock_blocks) {
    blocks.push_back({{"first_sample", b.first_sample},
                      {"samples", b.samples},
                      {"sm_mhz", maybe(b.sm_mhz)},
                      {"temperature_c", maybe(b.temperature_c)},
                      {"power_w", maybe(b.power_w)},
                      {"mean_sm_mhz", maybe(b.mean_sm_mhz)},
                      {"reasons", b.reasons}});
    if (b.sm_mhz) mhz.push_back(*b.sm_mhz);
  }
  std::sort(mhz.begin(), mhz.end());
  // The upper median: a clock that was read, never a mean of two.
  return {{"state", r.clock_state ? json(clock_state_name(*r.clock_state)) : json()},
          {"sm_mhz_median", mhz.empty() ? json() : json(mhz[mhz.size() / 2])},
          {"sm_mhz_min", mhz.empty() ? json() : json(mhz[0])},
          {"throttled_samples", maybe(r.throttled_samples)},
          {"blocks", blocks}};
}

ClockState parse_clock_state(const std::string& name) {
  const auto found = std::find(kClockStateNames.begin(), kClockStateNames.end(), name);
  if (found == kClockStateNames.end()) {
    throw UsageError(
        fmt::format("clocks.state: '{}' is not allowed; {}", name, fmt::join(kClockStateNames, ", ")));
  }
  return static_cast<ClockState>(found - kClockStateNames.begin());
}

void clocks_from_json(const json& j, Record& r) {
  std::optional<std::string> state;
  read(j, "state", state);
  if (state) r.clock_state = parse_clock_state(*state);
  read(j, "throttled_samples", r.throttled_samples);
  for (const json& b : j.value("blocks", json::array())) {
    ClockBlock block{.first_sample = b.value("first_sample", int64_t{0}),
                     .samples = b.value("samples", int64_t{0})};
    read(b, "sm_mhz", block.sm_mhz);
    read(b, "temperature_c", block.temperature_c);
    read(b, "power_w", block.power_w);
    read(b, "mean_sm_mhz", block.mean_sm_mhz);
    block.reasons = b.value("reasons", std::vector<std::string>{});
    r.clock_blocks.push_back(std::move(block));
  }
}

void check_version(const json& j) {
  const auto it = j.find("schema");
  if (it == j.end() || !it->is_string()) return;  // the schema says what is wrong
  const auto version = it->get<std::string>();
  if (!version.starts_with("1.")) {
    throw UsageError(fmt::format("schema: version {} is not understood; this build reads 1.x", version));
  }
}

Record parse(const json& j) {
  Record r;
  r.c = case_from_json(j.at("case"));
  r.id = j.at("id").get<std::string>();
  r.name = j.at("name").get<std::string>();
  r.worker = j.at("worker").get<int>();
  r.attempt = j.at("attempt").get<int>();
  r.status = parse_status(j.at("status").get<std::string>());
  read(j, "reason", r.reason);
  if (const json& s = part(j, "samples"); !s.empty()) {
    r.samples = SamplesRef{s.at("file").get<std::string>(), s.at("n").get<int64_t>(),
                           s.at("sha256").get<std::string>()};
  }
  if (const json& s = part(j, "summary"); !s.empty()) r.summary = summary_from_json(s);
  metrics_from_json(part(j, "metrics"), r.metrics);
  floor_from_json(part(j, "floor"), r.floor);
  if (const json& m = part(j, "model"); !m.empty()) r.model = model_from_json(m);
  cost_from_json(part(j, "cost"), r);
  read(part(j, "memory"), "peak_bytes", r.peak_bytes);
  read(part(j, "memory"), "planned_bytes", r.planned_bytes);
  read(part(j, "memory"), "weights_bytes", r.weights_bytes);
  read(part(j, "memory"), "fraction_kept", r.fraction_kept);
  if (const json& p = part(j, "pruned"); !p.empty()) r.pruned = pruned_from_json(p);
  if (const json& p = part(j, "planted"); !p.empty()) r.planted = planted_from_json(p);
  if (const json& c = part(j, "check"); !c.empty()) r.check = check_from_json(c);
  if (const json& a = part(j, "accuracy"); !a.empty()) r.accuracy = accuracy_from_json(a);
  read(j, "regime", r.regime);
  read(j, "l2", r.l2);
  read(j, "contended", r.contended);
  read(part(j, "warmup"), "repetitions", r.warmup_repetitions);
  read(part(j, "warmup"), "seconds", r.warmup_s);
  read(part(j, "warmup"), "steady", r.warmup_steady);
  read(part(j, "warmup"), "confirmed", r.warmup_confirmed);
  read(part(j, "stop"), "rule", r.stop_rule);
  read(part(j, "stop"), "target", r.stop_target);
  read(part(j, "stop"), "reached", r.stop_reached);
  clocks_from_json(part(j, "clocks"), r);
  for (const json& rank : j.value("ranks", json::array())) r.ranks.push_back(rank_from_json(rank));
  r.input_seed = j.at("seeds").at("inputs").get<uint64_t>();
  read(part(j, "seeds"), "order", r.order_seed);
  read(part(j, "process"), "profiler_mapped", r.profiler_mapped);
  read(j, "choices_sha256", r.choices_sha256);
  if (const auto lines = j.find("kernels"); lines != j.end() && !lines->is_null()) lines->get_to(r.kernels);
  read(j, "started", r.started);
  r.wall_s = j.at("wall_s").get<double>();
  return r;
}

}  // namespace

std::string_view status_name(Status status) {
  return kStatusNames[static_cast<size_t>(status)];
}

std::string_view clock_state_name(ClockState state) {
  return kClockStateNames[static_cast<size_t>(state)];
}

Status parse_status(std::string_view name) {
  for (size_t i = 0; i < kStatusNames.size(); ++i) {
    if (kStatusNames[i] == name) return static_cast<Status>(i);
  }
  throw UsageError(fmt::format("status: '{}' is not allowed; {}", name, fmt::join(kStatusNames, " ")));
}

json check_to_json(const Check& c) {
  return {{"reference", c.reference},
          {"error", maybe(c.error)},
          {"tolerance", maybe(c.tolerance)},
          {"where", maybe(c.where)},
          {"tokens_equal", maybe(c.tokens_equal)},
          {"tokens_compared", maybe(c.tokens_compared)},
          {"tokens_excused", maybe(c.tokens_excused)},
          {"digest", maybe(c.digest)},
          {"digest_after", maybe(c.digest_after)},
          {"remembered_from", maybe(c.remembered_from)}};
}

Check check_from_json(const json& j) {
  static const json schema = [] {
    json s = record_schema().at("properties").at("check");
    s["$defs"] = record_schema().at("$defs");
    return s;
  }();
  if (const auto error = schema_error(schema, j)) throw UsageError("check: " + *error);
  Check c;
  c.reference = j.at("reference").get<std::string>();
  read(j, "error", c.error);
  read(j, "tolerance", c.tolerance);
  read(j, "where", c.where);
  read(j, "tokens_equal", c.tokens_equal);
  read(j, "tokens_compared", c.tokens_compared);
  read(j, "tokens_excused", c.tokens_excused);
  read(j, "digest", c.digest);
  read(j, "digest_after", c.digest_after);
  read(j, "remembered_from", c.remembered_from);
  return c;
}

json accuracy_to_json(const Accuracy& a) {
  return {{"relative_error", a.relative_error},
          {"kl", maybe(a.kl)},
          {"tokens_agree", maybe(a.tokens_agree)},
          {"free_tokens_agree", maybe(a.free_tokens_agree)},
          {"tokens", maybe(a.tokens)},
          {"teacher_forced", a.teacher_forced},
          {"against", a.against},
          {"synthetic_weights", a.synthetic_weights}};
}

Accuracy accuracy_from_json(const json& j) {
  static const json schema = record_schema().at("$defs").at("accuracy");
  if (const auto error = schema_error(schema, j)) throw UsageError("accuracy." + *error);
  if (!j.is_object()) throw UsageError("accuracy: an object is needed");
  Accuracy a{.relative_error = j.at("relative_error").get<double>(),
             .teacher_forced = j.at("teacher_forced").get<bool>(),
             .against = j.at("against").get<std::string>(),
             .synthetic_weights = j.at("synthetic_weights").get<bool>()};
  read(j, "kl", a.kl);
  read(j, "tokens_agree", a.tokens_agree);
  read(j, "free_tokens_agree", a.free_tokens_agree);
  read(j, "tokens", a.tokens);
  return a;
}

std::optional<std::string> accuracy_fault(const Case& c, const std::optional<Accuracy>& accuracy) {
  if (!is_model_suite(c.suite) || !is_lossy(c)) return std::nullopt;
  if (!accuracy) {
    return fmt::format("accuracy: missing; what precision '{}', kv '{}', sparsity '{}' costs must be stated",
                       precision_name(c.precision), c.kv, c.sparsity);
  }
  const bool finite = std::isfinite(accuracy->relative_error) && std::isfinite(accuracy->kl.value_or(0)) &&
                      std::isfinite(accuracy->tokens_agree.value_or(0));
  return finite ? std::nullopt : std::optional<std::string>("accuracy: not a finite number");
}

Record make_record(const Case& c, int worker, int attempt) {
  Record r;
  r.c = c;
  r.id = case_id(c);
  r.name = case_name(c);
  r.worker = worker;
  r.attempt = attempt;
  return r;
}

json record_to_json(const Record& r) {
  json warmup = known_or_null({{"repetitions", maybe(r.warmup_repetitions)},
                               {"seconds", maybe(r.warmup_s)},
                               {"steady", maybe(r.warmup_steady)},
                               {"confirmed", maybe(r.warmup_confirmed)}});
  json stop = known_or_null(
      {{"rule", maybe(r.stop_rule)}, {"target", maybe(r.stop_target)}, {"reached", maybe(r.stop_reached)}});
  // The schema has no null inside these two: what is not known is left out.
  for (json* j : {&warmup, &stop}) {
    for (auto it = j->begin(); it != j->end();) it = it->is_null() ? j->erase(it) : std::next(it);
  }
  json samples, process;
  if (r.samples) samples = {{"file", r.samples->file}, {"n", r.samples->n}, {"sha256", r.samples->sha256}};
  if (r.profiler_mapped) process = {{"profiler_mapped", *r.profiler_mapped}};
  json j = {{"schema", kRecordSchema},
            {"id", r.id},
            {"name", r.name},
            {"suite", suite_name(r.c.suite)},
            {"case", case_to_json(r.c)},
            {"worker", r.worker},
            {"attempt", r.attempt},
            {"status", status_name(r.status)},
            {"reason", maybe(r.reason)},
            {"samples", samples},
            {"summary", r.summary ? summary_to_json(*r.summary) : json()},
            {"metrics", metrics_to_json(r.metrics)},
            {"floor", floor_to_json(r.floor)},
            {"model", r.model ? model_to_json(*r.model) : json()},
            {"cost", cost_to_json(r)},
            {"memory", known_or_null({{"peak_bytes", maybe(r.peak_bytes)},
                                      {"planned_bytes", maybe(r.planned_bytes)},
                                      {"weights_bytes", maybe(r.weights_bytes)},
                                      {"fraction_kept", maybe(r.fraction_kept)}})},
            {"pruned", r.pruned ? pruned_to_json(*r.pruned) : json()},
            {"planted", r.planted ? planted_to_json(*r.planted) : json()},
            {"check", r.check ? check_to_json(*r.check) : json()},
            {"accuracy", r.accuracy ? accuracy_to_json(*r.accuracy) : json()},
            {"regime", maybe(r.regime)},
            {"l2", maybe(r.l2)},
            {"contended", maybe(r.contended)},
            {"warmup", warmup},
            {"stop", stop},
            {"clocks", clocks_to_json(r)},
            {"ranks", ranks_to_json(r.ranks)},
            {"seeds", {{"inputs", r.input_seed}, {"order", maybe(r.order_seed)}}},
            {"process", process},
            {"choices_sha256", maybe(r.choices_sha256)},
            {"kernels", r.kernels.empty() ? json() : json(r.kernels)},
            {"started", maybe(r.started)},
            {"wall_s", r.wall_s}};
  if (const auto fault = accuracy_fault(r.c, r.accuracy); fault && r.status == Status::kOk) {
    throw Error(fmt::format("record of {}: {}", r.name, *fault));
  }
  if (const auto field = nonfinite_field(j)) {
    throw Error(fmt::format("record of {}: {} is not a finite number", r.name, *field));
  }
  return j;
}

Record record_from_json(const json& j) {
  check_version(j);
  if (const auto error = schema_error(record_schema(), j)) throw UsageError(*error);
  try {
    return parse(j);
  } catch (const json::exception& e) {
    throw UsageError(e.what());
  }
}

void RecordWriter::append(const Record& r) {
  // A reason may quote what a worker printed, which need not be UTF-8.
  log_.append(record_to_json(r).dump(-1, ' ', false, json::error_handler_t::replace));
}

std::vector<Record> read_records(const std::string& path, std::string* warning) {
  std::vector<Record> records;
  const std::string cut = for_each_line(path, [&](int number, const std::string& line) {
    try {
      Record r = record_from_json(parse_json(line));
      const auto fault = accuracy_fault(r.c, r.accuracy);
      if (fault && r.status == Status::kOk) throw UsageError(*fault);
      records.push_back(std::move(r));
    } catch (const UsageError& e) {
      throw UsageError(fmt::format("{}:{}: {}", path, number, e.what()));
    }
  });
  if (warning != nullptr) *warning = cut;
  return records;
}

}  // namespace tandem
