#include "harness/run/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <map>
#include <numeric>

#include "harness/base/error.h"
#include "harness/record/record.h"
#include "harness/trace/trace_file.h"

namespace tandem {
namespace {

using nlohmann::json;

constexpr std::array<std::string_view, kProfilePasses> kNames = {"graph", "node", "eager", "counters",
                                                                 "energy"};
constexpr const char* kNoEager = "the engine has no way to run it without graphs";
constexpr double kWarmup_s = 0.5;
constexpr double kUntraced_s = 0.3;
constexpr double kTraced_s = 0.5;
constexpr int kMostReplays = 50;
constexpr int kLeastReplays = 3;
/// Tracing changes what is on the card at its first replays: they are not kept.
constexpr int kFirstReplays = 2;
/// What a file of some megabytes holds.
constexpr size_t kMostRecords = 40000;
constexpr size_t kMostOrphans = 10;

/// The tracer's clock.
int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

double median(std::vector<float> values) {
  return summarize(std::move(values)).median_us;
}

Repetition repeat(Workload& workload, bool eager) {
  if (!eager) return workload.repeat();
  const auto r = workload.repeat_eager();
  if (!r) throw Error(kNoEager);
  return *r;
}

/// Repetitions for `seconds`, at least three.
std::vector<float> repeat_for(Workload& workload, bool eager, double seconds) {
  std::vector<float> times;
  const int64_t start = now_ns();
  do {
    times.push_back(static_cast<float>(repeat(workload, eager).total_us));
  } while (times.size() < 3 || static_cast<double>(now_ns() - start) < 1e9 * seconds);
  return times;
}

struct Traced {
  Trace trace;
  std::vector<Replay> replays;
};

/// The first ones too.
Traced trace_replays(Workload& workload, bool eager, TraceSource& tracer, int count) {
  Traced traced;
  tracer.start();
  for (int i = 0; i < kFirstReplays + count; ++i) {
    Replay replay{.start_ns = now_ns()};
    replay.event_us = repeat(workload, eager).total_us;
    replay.end_ns = now_ns();
    traced.replays.push_back(replay);
  }
  traced.trace = tracer.stop();
  return traced;
}

/// Only what the kept replays left, each without what came before its timed part.
void keep_replays(Traced& traced) {
  std::vector<Activity> kept;
  for (const Replay& r : traced.replays) {
    const ReplayWork own = work_of(r, traced.trace);
    kept.insert(kept.end(), own.activities.begin(), own.activities.end());
  }
  traced.trace.activities = std::move(kept);
  const int64_t from = traced.replays.front().start_ns;
  auto early = [from](const HostSpan& s) { return s.end_ns < from; };
  std::erase_if(traced.trace.calls, early);
  std::erase_if(traced.trace.markers, early);
}

json phases_json(const std::vector<Activity>& activities, double replays) {
  // Layers together: the file has them apart.
  std::vector<Activity> merged = activities;
  for (Activity& a : merged) {
    if (a.phase) a.phase->layer = -1;
  }
  json rows = json::array();
  for (const PhaseBusy& row : busy_by_phase(merged)) {
    rows.push_back({{"side", row.phase ? json(side_name(row.phase->side)) : json()},
                    {"phase", row.phase ? json(phase_name(row.phase->kind)) : json()},
                    {"busy_us", static_cast<double>(row.busy_ns) * 1e-3 / replays},
                    {"launches", static_cast<double>(row.launches) / replays}});
  }
  return rows;
}

json orphans_json(const std::vector<Activity>& activities, double replays) {
  std::map<std::string, int64_t> by_name;
  for (const Activity& a : activities) {
    if (!a.phase) by_name[a.name] += a.end_ns - a.start_ns;
  }
  std::vector<std::pair<std::string, int64_t>> rows(by_name.begin(), by_name.end());
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  if (rows.size() > kMostOrphans) rows.resize(kMostOrphans);
  json list = json::array();
  for (const auto& [name, ns] : rows)
    list.push_back({{"name", name}, {"us", static_cast<double>(ns) * 1e-3 / replays}});
  return list;
}

json cost_json(const Cost& cost, const Ceilings& ceilings) {
  json rows = json::array();
  for (const PhaseCost& p : cost.phases) {
    const auto floor = floor_us({.precision = cost.precision, .phases = {p}}, ceilings);
    const auto rate = ceilings.rate_tflops(cost.precision, p.unit);
    rows.push_back({{"side", side_name(p.side)},
                    {"phase", phase_name(p.kind)},
                    {"bytes_read", p.bytes_read()},
                    {"bytes_written", p.written_bytes},
                    {"flops", p.flops},
                    {"tflops_ceiling", rate ? json(*rate) : json()},
                    {"floor_us", floor ? json(floor->us) : json()}});
  }
  return rows;
}

json unavailable(std::string reason) {
  return {{"status", "unavailable"}, {"reason", std::move(reason)}};
}

/// Time, read and written device memory, L2 traffic, SMs, tensor cores.
const std::vector<std::string>& counter_metrics() {
  static const std::vector<std::string> metrics = {
      "gpu__time_duration.sum",
      "dram__bytes_read.sum",
      "dram__bytes_write.sum",
      "lts__t_bytes.sum",
      "sm__throughput.avg.pct_of_peak_sustained_elapsed",
      "sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active"};
  return metrics;
}

/// Sums over the ranges of one phase; percentages weighted by time.
json counters_json(const std::vector<CounterRange>& ranges) {
  struct Row {
    std::vector<double> values;
    double time_ns = 0;
    int64_t ranges = 0;
  };
  const size_t n = counter_metrics().size();
  std::map<std::string, Row> rows;
  for (const CounterRange& r : ranges) {
    Row& row = rows[r.name];
    row.values.resize(n);
    const double time_ns = r.values[0];
    for (size_t i = 0; i < n; ++i) row.values[i] += i < 4 ? r.values[i] : r.values[i] * time_ns;
    row.time_ns += time_ns;
    ++row.ranges;
  }
  json list = json::array();
  for (const auto& [name, row] : rows) {
    auto percent = [&row = row](size_t i) {
      return row.time_ns > 0 ? json(row.values[i] / row.time_ns) : json();
    };
    list.push_back({{"range", name},
                    {"ranges", row.ranges},
                    {"time_us", row.values[0] * 1e-3},
                    {"dram_read_bytes", row.values[1]},
                    {"dram_written_bytes", row.values[2]},
                    {"l2_bytes", row.values[3]},
                    {"sm_percent", percent(4)},
                    {"tensor_percent", percent(5)}});
  }
  return list;
}

}  // namespace

std::string_view pass_name(ProfilePass pass) {
  return kNames[static_cast<size_t>(pass)];
}

ProfilePass parse_pass(std::string_view name) {
  for (int i = 0; i < kProfilePasses; ++i) {
    if (kNames[i] == name) return static_cast<ProfilePass>(i);
  }
  throw UsageError(fmt::format("profile: '{}' is not one of {}", name, fmt::join(kNames, " ")));
}

json trace_summary(const Trace& trace, const std::vector<Replay>& replays) {
  const auto n = static_cast<double>(replays.size());
  double busy = 0, idle = 0, event = 0, worst = 0;
  for (const Replay& r : replays) {
    const ReplayWork own = work_of(r, trace);
    const double gap = static_cast<double>(idle_ns(own)) * 1e-3;
    const double work = static_cast<double>(busy_ns(own.activities)) * 1e-3;
    busy += work / n;
    idle += gap / n;
    event += r.event_us / n;
    worst = std::max(worst, std::abs(work + gap - r.event_us));
  }
  const auto attributed = attributed_fraction(trace.activities);
  return {{"status", trace.complete() ? "ok" : "incomplete"},
          {"reason", trace.complete() ? json()
                                      : json(fmt::format("{} records dropped, {} without a time, {} missing",
                                                         trace.dropped, trace.untimed, trace.missing))},
          {"replays", replays.size()},
          {"records", trace.activities.size()},
          {"dropped", trace.dropped},
          {"untimed", trace.untimed},
          {"missing", trace.missing},
          {"busy_us", busy},
          {"gaps_us", idle},
          {"event_us", event},
          {"worst_difference_us", worst},
          {"gpu_busy_attributed", attributed ? json(*attributed) : json()},
          {"phases", phases_json(trace.activities, n)},
          {"orphans", orphans_json(trace.activities, n)}};
}

json keep_trace(Trace trace, std::vector<Replay> replays, const std::string& run_dir, const std::string& file,
                const json& about) {
  if (replays.size() <= kFirstReplays)
    throw Error(fmt::format("trace: {} replays are too few", replays.size()));
  replays.erase(replays.begin(), replays.begin() + kFirstReplays);
  Traced traced{std::move(trace), std::move(replays)};
  keep_replays(traced);
  json summary = trace_summary(traced.trace, traced.replays);
  summary["overhead_us"] = static_cast<double>(traced.trace.overhead_ns) * 1e-3;
  summary["trace"] = file;
  const std::filesystem::path path = std::filesystem::path(run_dir) / file;
  std::error_code ec;
  std::filesystem::create_directories(path.parent_path(), ec);
  write_trace(path, trace_json(traced.trace, traced.replays, about));
  return summary;
}

json trace_pass(const ProfileSubject& subject, ProfilePass pass, TraceSource& tracer) {
  if (!tracer.unavailable().empty()) return unavailable(tracer.unavailable());
  const bool eager = pass == ProfilePass::kEager;
  Workload& workload = *subject.workload;
  if (eager && !workload.repeat_eager()) return unavailable(kNoEager);

  repeat_for(workload, eager, kWarmup_s);
  const double untraced = median(repeat_for(workload, eager, kUntraced_s));
  const Traced probe = trace_replays(workload, eager, tracer, 1);
  const Replay& last = probe.replays.back();
  const size_t records = std::max<size_t>(1, work_of(last, probe.trace).activities.size());
  const double by_time = 1e6 * kTraced_s / std::max(1.0, last.event_us);
  const double count = std::min(static_cast<double>(kMostRecords / records), by_time);
  Traced traced = trace_replays(workload, eager, tracer,
                                std::clamp(static_cast<int>(count), kLeastReplays, kMostReplays));
  std::vector<float> times;
  for (size_t i = kFirstReplays; i < traced.replays.size(); ++i)
    times.push_back(static_cast<float>(traced.replays[i].event_us));

  const json about = {{"case", case_to_json(subject.c)},
                      {"id", case_id(subject.c)},
                      {"name", case_name(subject.c)},
                      {"pass", pass_name(pass)},
                      {"untraced_us", untraced},
                      {"cost", subject.cost != nullptr ? cost_json(*subject.cost, subject.ceilings) : json()},
                      {"ceilings", subject.ceilings}};
  json line = keep_trace(std::move(traced.trace), std::move(traced.replays), subject.run_dir,
                         fmt::format("traces/{}-{}.json", case_id(subject.c), pass_name(pass)), about);
  // Whole graphs have no phases: nothing was attributed, nothing is an orphan.
  if (pass == ProfilePass::kGraph) {
    for (const char* field : {"gpu_busy_attributed", "phases", "orphans"}) line[field] = nullptr;
  }
  line["untraced_us"] = untraced;
  line["traced_us"] = median(times);
  line["slowdown"] = median(times) / untraced - 1;
  if (auto* others = dynamic_cast<TracesOfRanks*>(&tracer))
    line["ranks"] = others->keep(subject.run_dir, about);
  return line;
}

json counters_pass(const ProfileSubject& subject, Tracer& tracer) {
  if (!tracer.unavailable().empty()) return unavailable(tracer.unavailable());
  Workload& workload = *subject.workload;
  if (!workload.repeat_eager()) return unavailable(kNoEager);
  repeat_for(workload, false, kWarmup_s);
  // A generation has far more phases than CUPTI has room for in a pass: they are counted part by part, each in passes of
  // its own, and the whole replay with the first part.
  constexpr int kMostRanges = 2048;
  constexpr int kMostPasses = 32;
  constexpr int kMostParts = 64;
  constexpr int kPart = kMostRanges - 1;
  try {
    const int phases = tracer.count_ranges([&] { workload.repeat_eager(); });
    if (phases > kMostParts * kPart)
      throw Error(fmt::format("counters: {} phases in a repetition; at most {}", phases, kMostParts * kPart));
    std::vector<CounterRange> ranges;
    int passes = 0;
    for (int first = 0; first == 0 || first < phases; first += kPart) {
      tracer.open_counters(counter_metrics(), kMostRanges);
      bool more = true;
      int taken = 0;
      for (; more && taken < kMostPasses; ++taken) {
        tracer.begin_pass(first, kPart);
        workload.repeat_eager();
        if (first == 0) {
          tracer.push_range("replay");
          workload.repeat();
          tracer.pop_range();
        }
        more = tracer.end_pass();
      }
      if (more) throw Error(fmt::format("counters: more than {} passes are needed", kMostPasses));
      passes += taken;
      const std::vector<CounterRange> part = tracer.read_counters();
      ranges.insert(ranges.end(), part.begin(), part.end());
    }
    return {{"status", "ok"}, {"reason", nullptr}, {"passes", passes}, {"ranges", counters_json(ranges)}};
  } catch (const Error& e) {
    return unavailable(e.what());
  }
}

}  // namespace tandem
