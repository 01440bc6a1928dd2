#include "harness/trace/activity.h"

#include <algorithm>
#include <map>
#include <unordered_map>

namespace tandem {
namespace {

/// By start; of those that start together the longer first, so that it owns the instants they share.
std::vector<const Activity*> by_start(std::span<const Activity> activities) {
  std::vector<const Activity*> order;
  order.reserve(activities.size());
  for (const Activity& a : activities) order.push_back(&a);
  std::stable_sort(order.begin(), order.end(), [](const Activity* a, const Activity* b) {
    return a->start_ns != b->start_ns ? a->start_ns < b->start_ns : a->end_ns > b->end_ns;
  });
  return order;
}

/// Calls own(activity, nanoseconds) for the part of each activity that no earlier one covers, and gap(from, to) between.
template <typename Own, typename OnGap>
void sweep(std::span<const Activity> activities, Own&& own, OnGap&& gap) {
  bool first = true;
  int64_t covered = 0;
  for (const Activity* a : by_start(activities)) {
    if (first) {
      covered = a->start_ns;
      first = false;
    }
    if (a->start_ns > covered) {
      gap(covered, a->start_ns);
      covered = a->start_ns;
    }
    own(*a, std::max<int64_t>(0, a->end_ns - covered));
    covered = std::max(covered, a->end_ns);
  }
}

}  // namespace

std::string_view activity_kind_name(ActivityKind kind) {
  constexpr std::string_view kNames[] = {"kernel", "copy", "memset", "graph", "communication"};
  return kNames[static_cast<size_t>(kind)];
}

int64_t busy_ns(std::span<const Activity> activities) {
  int64_t total = 0;
  sweep(
      activities, [&](const Activity&, int64_t ns) { total += ns; }, [](int64_t, int64_t) {});
  return total;
}

std::vector<PhaseBusy> busy_by_phase(std::span<const Activity> activities) {
  std::map<std::optional<Phase>, PhaseBusy> table;
  sweep(
      activities,
      [&](const Activity& a, int64_t ns) {
        PhaseBusy& row = table[a.phase];
        row.phase = a.phase;
        row.busy_ns += ns;
        ++row.launches;
      },
      [](int64_t, int64_t) {});
  std::vector<PhaseBusy> rows;
  for (auto& [phase, row] : table) rows.push_back(row);
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return a.busy_ns > b.busy_ns; });
  return rows;
}

std::optional<double> attributed_fraction(std::span<const Activity> activities) {
  int64_t total = 0;
  int64_t orphans = 0;
  for (const PhaseBusy& row : busy_by_phase(activities)) {
    total += row.busy_ns;
    if (!row.phase) orphans += row.busy_ns;
  }
  if (total == 0) return std::nullopt;
  return 1.0 - static_cast<double>(orphans) / static_cast<double>(total);
}

std::vector<Gap> gaps(std::span<const Activity> activities) {
  std::vector<Gap> found;
  sweep(
      activities, [](const Activity&, int64_t) {},
      [&](int64_t from, int64_t to) {
        found.push_back({from, to});
      });
  return found;
}

ReplayWork work_of(const Replay& replay, const Trace& trace) {
  const std::span<const Activity> by_start(trace.activities);
  auto before = [](const auto& a, int64_t ns) { return a.start_ns < ns; };
  const auto first = std::lower_bound(by_start.begin(), by_start.end(), replay.start_ns, before);
  const auto last = std::lower_bound(first, by_start.end(), replay.end_ns, before);
  std::vector<const HostSpan*> events;
  auto call = std::lower_bound(trace.calls.begin(), trace.calls.end(), replay.start_ns, before);
  for (; call != trace.calls.end() && call->start_ns < replay.end_ns; ++call) {
    if (call->name.starts_with("cudaEventRecord")) events.push_back(&*call);
  }
  ReplayWork work;
  if (events.size() >= 2) {
    work.begin_ns = events.front()->end_ns;
    for (auto a = first; a != last; ++a) {
      if (a->correlation < events.front()->correlation) work.begin_ns = std::max(work.begin_ns, a->end_ns);
      if (a->correlation > events.front()->correlation && a->correlation < events.back()->correlation)
        work.activities.push_back(*a);
    }
  } else {
    const auto graph = std::find_if(
        first, last, [](const Activity& a) { return a.graph_node != 0 || a.kind == ActivityKind::kGraph; });
    work.activities = {graph != last ? graph : first, last};
    if (!work.activities.empty()) work.begin_ns = work.activities.front().start_ns;
  }
  work.end_ns = work.begin_ns;
  for (const Activity& a : work.activities) work.end_ns = std::max(work.end_ns, a.end_ns);
  return work;
}

int64_t idle_ns(const ReplayWork& work) {
  if (work.activities.empty()) return 0;
  int64_t idle = std::max<int64_t>(0, work.activities.front().start_ns - work.begin_ns);
  for (const Gap& gap : gaps(work.activities)) idle += gap.end_ns - gap.start_ns;
  return idle;
}

int64_t missing_records(std::span<const Activity> activities) {
  struct Launch {
    int64_t promised = 0;
    int64_t found = 0;
  };
  // A launch has one correlation; a graph of several pieces (none of ours) would share it.
  std::unordered_map<uint64_t, Launch> launches;
  for (const Activity& a : activities) {
    if (a.graph_node == 0 || a.graph_nodes == 0) continue;
    Launch& launch = launches[a.correlation];
    launch.promised = a.graph_nodes;
    ++launch.found;
  }
  int64_t missing = 0;
  for (const auto& [correlation, launch] : launches)
    missing += std::max<int64_t>(0, launch.promised - launch.found);
  return missing;
}

}  // namespace tandem
