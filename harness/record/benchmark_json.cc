#include "harness/record/benchmark_json.h"

#include <unistd.h>

#include <map>

namespace tandem {
namespace {

using nlohmann::json;

json context_of(const json& environment, const std::vector<Record>& records) {
  const json host = environment.value("host", json::object());
  const json command = environment.value("command", json::array());
  json executable = command.empty() ? json("tandem") : command.at(0);
  if (!records.empty()) executable = "suite_" + std::string(suite_name(records.front().c.suite));
  return {{"date", environment.value("created", "")},
          {"host_name", host.value("name", "")},
          {"executable", executable},
          {"num_cpus", host.value("cores", 1)},
          {"caches", json::array()},
          {"load_avg", json::array()},
          {"library_build_type",
           environment.value("build", json::object()).value("type", "") == "Debug" ? "debug" : "release"},
          {"json_schema_version", 1},
          {"tandem", environment}};
}

void add_counter(json& entry, const char* name, const std::optional<double>& value) {
  if (value) entry[name] = *value;
}

json entry_of(const Record& r, int family, int repetitions) {
  json entry = {
      {"name", r.name},
      {"run_name", r.name},
      {"run_type", "iteration"},
      {"family_index", family},
      {"per_family_instance_index", 0},
      {"repetitions", repetitions},
      {"repetition_index", r.worker},
      {"threads", 1},
      {"iterations", r.summary->n},
      {"real_time", r.summary->median_us},
      {"cpu_time", r.summary->median_us},  // compare.py needs one; the sample is the engine's own clock
      {"time_unit", "us"}};
  add_counter(entry, "step_us", r.metrics.step_us);
  add_counter(entry, "first_token_us", r.metrics.first_token_us);
  add_counter(entry, "tokens_per_second", r.metrics.tokens_per_second);
  add_counter(entry, "floor_us", r.floor.floor_us);
  add_counter(entry, "floor_ratio", r.floor.ratio);
  add_counter(entry, "flops", r.flops);
  add_counter(entry, "bytes", r.bytes);
  if (r.peak_bytes) entry["peak_device_bytes"] = *r.peak_bytes;
  entry["tandem"] = record_to_json(r);
  return entry;
}

}  // namespace

json benchmark_json(const json& environment, const std::vector<Record>& records) {
  std::map<std::string, int> repetitions, families;
  for (const Record& r : records) {
    if (r.status == Status::kOk && r.summary) ++repetitions[r.name];
  }
  json benchmarks = json::array();
  json failures = json::array();
  for (const Record& r : records) {
    if (r.status == Status::kOk && r.summary) {
      const int family = families.emplace(r.name, static_cast<int>(families.size())).first->second;
      benchmarks.push_back(entry_of(r, family, repetitions[r.name]));
    } else {
      failures.push_back({{"name", r.name},
                          {"id", r.id},
                          {"worker", r.worker},
                          {"status", status_name(r.status)},
                          {"reason", r.reason ? json(*r.reason) : json()},
                          {"attempt", r.attempt},
                          {"tandem", record_to_json(r)}});
    }
  }
  return {{"context", context_of(environment, records)}, {"benchmarks", benchmarks}, {"failures", failures}};
}

}  // namespace tandem
