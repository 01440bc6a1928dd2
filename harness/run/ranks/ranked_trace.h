// Traces of all ranks: each process has a tracer and a device of its own, and a file of its own.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "harness/run/profile.h"
#include "harness/run/ranks/team.h"

namespace tandem {

/// Rank 0's tracer; starting and stopping it starts and stops the others'.
std::unique_ptr<TraceSource> trace_all_ranks(RankTeam& team, TraceSource& own);

/// Another rank's tracer, and the windows of what it repeats meanwhile.
class RankTracer {
 public:
  explicit RankTracer(std::unique_ptr<TraceSource> source) : source_(std::move(source)) {}

  std::string unavailable() const { return source_->unavailable(); }
  void start();
  void stop();
  /// Runs one repetition of the case; `event_us`: its time by the engine's clock.
  template <typename Repeat>
  auto window(Repeat&& repeat) {
    Replay replay{.start_ns = now_ns()};
    auto r = repeat();
    replay.end_ns = now_ns();
    if (r) replay.event_us = r->total_us;
    if (recording_) replays_.push_back(replay);
    return r;
  }
  /// keep_trace of the last trace, in a file with the rank in its name; its summary, short.
  nlohmann::json keep(int rank, const std::string& run_dir, nlohmann::json about);

 private:
  static int64_t now_ns();

  std::unique_ptr<TraceSource> source_;
  bool recording_ = false;
  Trace trace_;
  std::vector<Replay> replays_;
};

}  // namespace tandem
