// What a tracer leaves of a profiled case: device activity as data. Who records it (CUPTI, nsys, a test) is behind TraceSource.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "harness/base/phase.h"

namespace tandem {

enum class ActivityKind : uint8_t { kKernel, kCopy, kMemset, kGraph, kCommunication };

/// One interval of device work. Times are nanoseconds of one clock; end >= start.
struct Activity {
  ActivityKind kind = ActivityKind::kKernel;
  std::string name;
  int64_t start_ns = 0;
  int64_t end_ns = 0;
  int stream = 0;
  uint64_t graph_node = 0;     ///< 0: not launched by a graph
  std::optional<Phase> phase;  ///< absent: an orphan, no phase was recorded for it
};

/// Everything a tracer knows, losses included.
struct Trace {
  std::vector<Activity> activities;
  int64_t dropped = 0;  ///< records the tracer lost
  int64_t untimed = 0;  ///< records without a timestamp
  bool complete() const { return dropped == 0 && untimed == 0; }
};

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
  std::optional<Phase> phase;  ///< absent: orphans
  int64_t busy_ns = 0;
  int64_t launches = 0;
};
/// Busy time by phase, largest first. Where activities overlap, an instant belongs to the one that started first, so that
/// the phases sum to busy_ns exactly.
std::vector<PhaseBusy> busy_by_phase(std::span<const Activity> activities);

/// Intervals between the first start and the last end in which nothing runs, each measured, none a remainder.
struct Gap {
  int64_t start_ns = 0;
  int64_t end_ns = 0;
};
std::vector<Gap> gaps(std::span<const Activity> activities);

/// A Chrome trace (JSON array format) that opens in ui.perfetto.dev: one row a stream, one for the phases.
std::string chrome_trace(const Trace& trace);

}  // namespace tandem
