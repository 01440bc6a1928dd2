// Candidates timed against each other: a first look at each, then the best few in turns, so that a falling clock hits all of
// them alike. Every search of an algorithm, a config or a form does it so. Plain C++: tested with a fake stopwatch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "harness/base/stats.h"

namespace tandem::kernels {

struct Turns {
  int looks = 3;         ///< times of each candidate at first, after one that does not count
  size_t finalists = 6;  ///< that stay
  int rounds = 9;        ///< times of each finalist
};

template <typename Entrant>
struct Timed {
  Entrant entrant;
  size_t order = 0;  ///< among the candidates
  double us = 0;     ///< median
};

/// The best few of `count` candidates, fastest first; equal ones keep their order. `enter(i)` makes candidate i, or nothing
/// where it cannot run; `time(entrant)` times it once. A candidate that is no finalist is destroyed at once.
template <typename Enter, typename Time>
auto first_look(size_t count, const Turns& turns, Enter&& enter, Time&& time) {
  using Entrant = typename decltype(enter(size_t{}))::value_type;
  std::vector<Timed<Entrant>> best;
  for (size_t i = 0; i < count; ++i) {
    std::optional<Entrant> entrant = enter(i);
    if (!entrant) continue;
    time(*entrant);
    std::vector<double> us;
    for (int look = 0; look < turns.looks; ++look) us.push_back(time(*entrant));
    Timed<Entrant> timed{.entrant = std::move(*entrant), .order = i, .us = median(us)};
    const auto at = std::upper_bound(best.begin(), best.end(), timed.us,
                                     [](double value, const auto& other) { return value < other.us; });
    best.insert(at, std::move(timed));
    if (best.size() > turns.finalists) best.pop_back();
  }
  return best;
}

/// Times the finalists anew, round by round, and sorts them by their medians.
template <typename Entrant, typename Time>
void in_turns(std::vector<Timed<Entrant>>& finalists, const Turns& turns, Time&& time) {
  std::vector<std::vector<double>> us(finalists.size());
  for (int round = 0; round < turns.rounds; ++round) {
    for (size_t i = 0; i < finalists.size(); ++i) us[i].push_back(time(finalists[i].entrant));
  }
  for (size_t i = 0; i < finalists.size(); ++i) finalists[i].us = median(us[i]);
  std::ranges::stable_sort(finalists, {}, &Timed<Entrant>::us);
}

}  // namespace tandem::kernels
