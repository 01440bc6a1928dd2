// The profile passes of a case, each in a process of its own: where its time goes, what it moves, what it draws. None of them is a
// measurement of time: the record of the case is.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "harness/cost/ceilings.h"
#include "harness/engine/engine.h"
#include "harness/trace/tracer.h"

namespace tandem {

enum class ProfilePass : uint8_t {
  kGraph,     ///< one record a graph launch
  kNode,      ///< one record a kernel, as the graph runs it
  kEager,     ///< one record a kernel, launched without graphs
  kCounters,  ///< hardware counters, phase by phase
  kEnergy,    ///< joules a token
};
inline constexpr int kProfilePasses = 5;
std::string_view pass_name(ProfilePass pass);  // graph node eager counters energy
/// Throws UsageError naming the allowed ones.
ProfilePass parse_pass(std::string_view name);

/// A case of which a pass takes a profile.
struct ProfileSubject {
  const Case& c;
  Workload* workload = nullptr;
  const Cost* cost = nullptr;  ///< of a model pass; null for an operation
  const Ceilings& ceilings;
  double tokens = 0;    ///< that a repetition makes; 0: none
  std::string run_dir;  ///< traces/ lies there
};

/// The pass's part of the line in profiles.jsonl. A tracer that cannot work here, counters without permission, an engine without
/// eager launches: status "unavailable" and the reason. Throws what the workload throws, and IoError.
nlohmann::json trace_pass(const ProfileSubject& subject, ProfilePass pass, TraceSource& tracer);
nlohmann::json counters_pass(const ProfileSubject& subject, Tracer& tracer);

/// A source of traces that has those of other ranks too.
class TracesOfRanks {
 public:
  virtual ~TracesOfRanks() = default;
  /// Every other rank keeps its last trace, as keep_trace does, beside that of `about`. A summary a rank.
  virtual nlohmann::json keep(const std::string& run_dir, const nlohmann::json& about) = 0;
};

/// What trace_pass keeps of a trace: the replays but the first ones, which tracing itself changes, and each replay's timed part. Writes
/// it to `file` of the run folder and gives its summary. Throws IoError.
nlohmann::json keep_trace(Trace trace, std::vector<Replay> replays, const std::string& run_dir,
                          const std::string& file, const nlohmann::json& about);

/// What a trace says of itself, as means over its replays; for tests and trace_pass.
nlohmann::json trace_summary(const Trace& trace, const std::vector<Replay>& replays);

}  // namespace tandem
