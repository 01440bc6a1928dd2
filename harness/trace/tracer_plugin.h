// What a tracer is to this program: a table of C functions that a shared object of its own exports. CUPTI lives behind it, so that
// only a profile worker, which opens the object at run time, ever maps a profiler library; a test puts a table with recorded data
// here.
//
// Order of calls: open, before CUDA is initialised; work, whose graph nodes and launches take the phase that enter_phase last
// named; start; replays; stop. start and stop may come again. All calls come from one thread.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

inline constexpr uint32_t kTandemTracerAbi = 1;

enum TandemRecordKind : uint32_t {
  kTandemKernel,
  kTandemCopy,
  kTandemMemset,
  kTandemGraph,   ///< one launch of a graph as a whole; only at kTandemGraphLevel
  kTandemCall,    ///< a call of the host that enqueues or waits; `correlation` joins it to what it enqueued
  kTandemMarker,  ///< an NVTX range on the host
};

/// One record; the pointers hold until the sink returns.
struct TandemTraceRecord {
  uint32_t kind;
  const char* name;   ///< mangled for kernels
  uint64_t start_ns;  ///< CLOCK_MONOTONIC; both 0: the profiler has no time for it
  uint64_t end_ns;
  uint64_t bytes;        ///< copies and memsets
  uint64_t graph_node;   ///< 0: not launched by a graph
  uint32_t graph_nodes;  ///< device work nodes of that node's graph; 0: not known
  uint32_t stream;
  uint32_t correlation;
  uint32_t phase;  ///< what enter_phase was given when it was captured or launched; 0: none
};

/// What a trace lost and cost.
struct TandemTraceTotals {
  uint64_t dropped;      ///< records that the profiler had no room for
  uint64_t overhead_ns;  ///< time the profiler says it took on the host
};

enum TandemTraceLevel : uint32_t {
  kTandemGraphLevel,  ///< one record a graph launch: disturbs least
  kTandemNodeLevel,   ///< one record a kernel, copy and memset
};

struct TandemTracerConfig {
  uint32_t level;         ///< TandemTraceLevel of every trace of this process
  uint64_t buffer_bytes;  ///< of one buffer on the host
  uint32_t buffers;       ///< allocated by open, never more: what does not fit is counted as dropped
};

/// Counters of one range: `values` has as many as open_counters was given metrics.
struct TandemCounterRange {
  const char* name;
  const double* values;
  size_t count;
};

/// Functions return 0, or 1 with a line in `error` (cut to `error_bytes`).
struct TandemTracer {
  uint32_t abi;
  int (*open)(const TandemTracerConfig* config, char* error, size_t error_bytes);
  void (*enter_phase)(uint32_t phase);
  void (*leave_phase)();
  int (*start)(char* error, size_t error_bytes);
  /// Waits for the device, then hands over everything recorded since start.
  int (*stop)(void (*sink)(void* context, const TandemTraceRecord* record), void* context,
              TandemTraceTotals* totals, char* error, size_t error_bytes);

  /// Hardware counters of ranges of the current context, at most `max_ranges` a pass.
  int (*open_counters)(const char* const* metrics, size_t count, size_t max_ranges, char* error,
                       size_t error_bytes);
  int (*begin_pass)(char* error, size_t error_bytes);
  int (*push_range)(const char* name, char* error, size_t error_bytes);
  /// Waits for the device first.
  int (*pop_range)(char* error, size_t error_bytes);
  /// `done`: every pass that the metrics need was made; otherwise the same work must be done again.
  int (*end_pass)(int* done, char* error, size_t error_bytes);
  int (*read_counters)(void (*sink)(void* context, const TandemCounterRange* range), void* context,
                       char* error, size_t error_bytes);
};

/// The one symbol of the object.
typedef const TandemTracer* (*TandemTracerEntry)();
#define TANDEM_TRACER_ENTRY "tandem_tracer"
}
