// What a tracer leaves of a profiled case: device activity as data. Who records it (CUPTI, a test) is behind TraceSource.
// reports/tandem_reports analyses traces further; here is what a profile's record says about itself.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/phase.h"

namespace tandem {

enum class ActivityKind : uint8_t { kKernel, kCopy, kMemset, kGraph, kCommunication };
std::string_view activity_kind_name(ActivityKind kind);  // kernel copy memset graph communication

/// One interval of device work. Times are nanoseconds of one clock; end >= start.
struct Activity {
  ActivityKind kind = ActivityKind::kKernel;
  std::string name = {};
  int64_t start_ns = 0;
  int64_t end_ns = 0;
  int stream = 0;
  int64_t bytes = 0;                ///< of copies and memsets
  uint64_t graph_node = 0;          ///< 0: not launched by a graph
  int64_t graph_nodes = 0;          ///< how many such nodes its graph has; 0: not known
  uint64_t correlation = 0;         ///< joins it to the call that enqueued it; 0: none
  std::optional<Phase> phase = {};  ///< absent: an orphan, no phase was recorded for it
};

/// A call or a marked range of the host, in the activities' clock.
struct HostSpan {
  std::string name = {};
  int64_t start_ns = 0;
  int64_t end_ns = 0;
  uint64_t correlation = 0;  ///< 0: a marked range
};

/// Everything a tracer knows, losses included.
struct Trace {
  std::vector<Activity> activities = {};
  std::vector<HostSpan> calls = {};  ///< by start
  std::vector<HostSpan> markers = {};
  int64_t dropped = 0;      ///< records the tracer lost
  int64_t untimed = 0;      ///< records without a timestamp; they are not among the activities
  int64_t missing = 0;      ///< records that graph launches should have left and did not
  int64_t overhead_ns = 0;  ///< time the tracer took on the host
  bool complete() const { return dropped == 0 && untimed == 0 && missing == 0; }
};

enum class TraceLevel : uint8_t { kGraph, kNode };

/// Records the device's activity between start and stop.
class TraceSource {
 public:
  virtual ~TraceSource() = default;
  /// Why this source cannot record here (another tool owns the profiler, a permission is missing); empty when it can.
  virtual std::string unavailable() const = 0;
  virtual void start() = 0;
  /// Waits for the device, then returns everything recorded since start.
  virtual Trace stop() = 0;
};

/// Time in which at least one activity runs: the union of their intervals.
int64_t busy_ns(std::span<const Activity> activities);

struct PhaseBusy {
  std::optional<Phase> phase = {};  ///< absent: orphans
  int64_t busy_ns = 0;
  int64_t launches = 0;
};
/// Busy time by phase, largest first. Where activities overlap, an instant belongs to the one that started first, so that
/// the phases sum to busy_ns exactly.
std::vector<PhaseBusy> busy_by_phase(std::span<const Activity> activities);

/// Share of busy time that belongs to a phase; absent when nothing ran.
std::optional<double> attributed_fraction(std::span<const Activity> activities);

/// Intervals between the first start and the last end in which nothing runs, each measured, none a remainder.
struct Gap {
  int64_t start_ns = 0;
  int64_t end_ns = 0;
};
std::vector<Gap> gaps(std::span<const Activity> activities);

/// The host's window around one replay of a case, and the time that the engine's own clock gave it.
struct Replay {
  int64_t start_ns = 0;
  int64_t end_ns = 0;
  double event_us = 0;
};

/// What a replay left on the device.
struct ReplayWork {
  std::vector<Activity> activities = {};  ///< by start
  /// Where the replay was timed. Events have no time of their own in a trace: the first happened when the call that recorded it was
  /// over, or later, when what had been enqueued before it was done; the last after the last of the work between them. Without
  /// calls: from the first start to the last end.
  int64_t begin_ns = 0;
  int64_t end_ns = 0;
};

/// The work of a replay: what starts inside its window and was enqueued between its first event and its last. Without calls:
/// what does not come before its first graph, which would set the state up.
ReplayWork work_of(const Replay& replay, const Trace& trace);

/// Nanoseconds between `begin_ns` and `end_ns` in which nothing runs, each gap measured.
int64_t idle_ns(const ReplayWork& work);

/// Records that are missing beside what the graphs' sizes promise, launch by launch.
int64_t missing_records(std::span<const Activity> activities);

}  // namespace tandem
