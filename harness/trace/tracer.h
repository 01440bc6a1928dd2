// The tracer of tracer_plugin.h as the rest of the program uses it, and the object that holds CUPTI, opened at run time.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "harness/trace/activity.h"
#include "harness/trace/tracer_plugin.h"

namespace tandem {

struct TracerOptions {
  TraceLevel level = TraceLevel::kNode;
  /// 0: 64 buffers of 4 MiB, which take about a million records. A trace that needs more says what it dropped.
  uint64_t buffer_bytes = 0;
  uint32_t buffers = 0;
};

/// Values of the metrics that were asked for, in their order.
struct CounterRange {
  std::string name;
  std::vector<double> values;
};

/// Tells the tracer's phases of this process's PhaseRanges, so only one can live at a time.
class Tracer : public TraceSource {
 public:
  /// To be made before CUDA is initialised. Never throws: what does not work is unavailable().
  explicit Tracer(const TandemTracer* table, const TracerOptions& options = {});
  /// No table, for this reason.
  explicit Tracer(std::string unavailable) : unavailable_(std::move(unavailable)) {}
  ~Tracer() override;
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  std::string unavailable() const override { return unavailable_; }
  /// Throws Error.
  void start() override;
  Trace stop() override;

  /// Hardware counters of at most `max_ranges` ranges. Throws Error with the reason where there are none: no permission, a
  /// virtual card, another tool.
  void open_counters(const std::vector<std::string>& metrics, int max_ranges);
  /// PhaseRanges that `work` opens: a pass of so many ranges would be needed to count them all.
  int count_ranges(const std::function<void()>& work);
  /// From here the PhaseRanges from the `first` of the pass on, `count` of them, are ranges of the counters, named by their
  /// phase without the layer. No more of them than counters were opened for.
  void begin_pass(int first, int count);
  void push_range(const std::string& name);
  void pop_range();
  /// Must the same work be done once more?
  bool end_pass();
  std::vector<CounterRange> read_counters();

 private:
  void need(bool available) const;

  const TandemTracer* table_ = nullptr;
  std::string unavailable_;
};

/// Opens libtandem_cupti.so beside this binary (or in ../lib, or what TANDEM_TRACER names). Where it cannot be opened the tracer
/// is unavailable and says why.
std::unique_ptr<Tracer> load_tracer(const TracerOptions& options = {});

/// How phases travel through the table: 0 is none.
uint32_t phase_tag(const Phase& phase);
std::optional<Phase> phase_of_tag(uint32_t tag);

}  // namespace tandem
