#include "harness/trace/activity.h"

#include <algorithm>
#include <map>

#include <nlohmann/json.hpp>

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

std::vector<Gap> gaps(std::span<const Activity> activities) {
  std::vector<Gap> found;
  sweep(
      activities, [](const Activity&, int64_t) {},
      [&](int64_t from, int64_t to) {
        found.push_back({from, to});
      });
  return found;
}

std::string chrome_trace(const Trace& trace) {
  nlohmann::json events = nlohmann::json::array();
  auto add = [&](const std::string& name, const std::string& row, const Activity& a) {
    events.push_back({{"name", name},
                      {"ph", "X"},
                      {"ts", static_cast<double>(a.start_ns) * 1e-3},
                      {"dur", static_cast<double>(a.end_ns - a.start_ns) * 1e-3},
                      {"pid", "device"},
                      {"tid", row}});
  };
  for (const Activity& a : trace.activities) {
    add(a.name, "stream " + std::to_string(a.stream), a);
    add(a.phase ? phase_path(*a.phase) : "no phase", "phases", a);
  }
  return events.dump();
}

}  // namespace tandem
