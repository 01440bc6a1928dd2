#include "kernels/common/turns.h"

#include <gtest/gtest.h>

#include <memory>

namespace tandem::kernels {
namespace {

/// A stopwatch without a card: candidate i takes base[i], all of them longer as the clock falls, and now and then one is disturbed.
struct FakeWatch {
  std::vector<double> base;
  double falls_by = 0;  // of each time, relative
  int disturbs = 0;     // each so-manieth time is ten times as long
  int times = 0;

  double time(int candidate) {
    ++times;
    const double us = base[static_cast<size_t>(candidate)] * (1 + falls_by * times);
    return disturbs > 0 && times % disturbs == 0 ? 10 * us : us;
  }
};

std::optional<int> entrant(size_t i) {
  return static_cast<int>(i);
}

// Breaks when candidates are timed one after the other alone: the clock falls by 1 % a time, and the last and best one would
// lose by 2 % to the first.
TEST(Turns, AFallingClockHitsAllAlike) {
  FakeWatch watch{.base = {100, 101, 98}, .falls_by = 0.01};
  const auto time = [&](int i) { return watch.time(i); };
  auto all = first_look(3, {.finalists = 3}, entrant, time);
  EXPECT_EQ(all.front().entrant, 0) << "a first look is not fair";
  in_turns(all, {.rounds = 9}, time);
  EXPECT_EQ(all.front().entrant, 2);
  EXPECT_EQ(all.front().order, 2u);
}

// Breaks when a mean, or the least of the times, stands for a candidate: one disturbed time would decide.
TEST(Turns, OneDisturbedTimeDecidesNothing) {
  FakeWatch watch{.base = {100, 99}, .disturbs = 7};
  const auto time = [&](int i) { return watch.time(i); };
  auto all = first_look(2, {}, entrant, time);
  in_turns(all, {.rounds = 5}, time);
  EXPECT_EQ(all.front().entrant, 1);
  EXPECT_DOUBLE_EQ(all.front().us, 99);
}

// Breaks when what cannot run is timed, when more than the finalists are kept (each holds a graph on the card), or when equal
// candidates change places: the first is the one with the smaller workspace.
TEST(Turns, OnlyFinalistsStayAndEqualOnesKeepTheirOrder) {
  FakeWatch watch{.base = {5, 3, 9, 3, 1, 3}};
  int alive = 0;
  int most = 0;
  struct Counted {
    int i;
    std::shared_ptr<int> life;
  };
  const auto enter = [&](size_t i) -> std::optional<Counted> {
    if (i == 4) return std::nullopt;
    most = std::max(most, ++alive);
    return Counted{static_cast<int>(i), std::shared_ptr<int>(new int, [&](int* p) {
                     delete p;
                     --alive;
                   })};
  };
  const auto time = [&](const Counted& c) { return watch.time(c.i); };
  auto best = first_look(6, {.looks = 1, .finalists = 2}, enter, time);
  EXPECT_EQ(most, 3);
  ASSERT_EQ(best.size(), 2u);
  EXPECT_EQ(alive, 2);
  EXPECT_EQ(watch.times, 5 * 2) << "a time that does not count, and one that does";
  in_turns(best, {.rounds = 3}, time);
  EXPECT_EQ(best[0].order, 1u);
  EXPECT_EQ(best[1].order, 3u);
}

}  // namespace
}  // namespace tandem::kernels
