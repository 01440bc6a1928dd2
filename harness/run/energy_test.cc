#include "harness/run/energy.h"

#include <gtest/gtest.h>

#include "harness/base/error.h"

namespace tandem {
namespace {

/// Takes a quarter of a second of a clock that only it moves, and 100 J of a counter.
struct Card {
  double seconds = 0, joules = 1000;
};
class Work : public Workload {
 public:
  explicit Work(Card& card) : card_(card) {}
  Repetition repeat() override {
    card_.seconds += 0.25;
    card_.joules += 100;
    return {.total_us = 250e3, .step_us = {}, .first_token_us = {}};
  }
  Output output() override { return {}; }
  int64_t peak_bytes() const override { return 0; }

 private:
  Card& card_;
};

EnergyOptions options(Card& card, double window_s = 6) {
  return {.window_s = window_s,
          .tokens = 8,
          .joules = [&card] { return std::vector{std::optional(card.joules)}; },
          .now = [&card] { return card.seconds; }};
}

// Breaks when energy is not shared among the tokens, or the repetition before the window counts.
TEST(Energy, JoulesATokenOverTheWindow) {
  Card card;
  Work work(card);
  const auto line = measure_energy(work, options(card));
  EXPECT_EQ(line["status"], "ok");
  EXPECT_EQ(line["repetitions"], 24);
  EXPECT_DOUBLE_EQ(line["seconds"].get<double>(), 6);
  EXPECT_DOUBLE_EQ(line["watts"].get<double>(), 400);
  EXPECT_DOUBLE_EQ(line["joules_per_token"].get<double>(), 100.0 / 8);
}

// Breaks when cards' joules are not summed, or not told apart.
TEST(Energy, OfSeveralCards) {
  Card card;
  Work work(card);
  EnergyOptions two = options(card);
  two.joules = [&card] { return std::vector{std::optional(card.joules), std::optional(3 * card.joules)}; };
  const auto line = measure_energy(work, two);
  EXPECT_DOUBLE_EQ(line["joules_of_ranks"][0].get<double>(), 2400);
  EXPECT_DOUBLE_EQ(line["joules_of_ranks"][1].get<double>(), 7200);
  EXPECT_DOUBLE_EQ(line["joules"].get<double>(), 9600);
  two.joules = [&card] { return std::vector<std::optional<double>>{card.joules, std::nullopt}; };
  const auto none = measure_energy(work, two);
  EXPECT_EQ(none["status"], "unavailable");
  EXPECT_EQ(none["reason"], "rank 1: the card has no energy counter that can be read");
}

// Breaks when a window too short for the counter is measured all the same.
TEST(Energy, ShortWindowsAreRefused) {
  Card card;
  Work work(card);
  EXPECT_THROW(measure_energy(work, options(card, 4.9)), UsageError);
}

// Breaks when a card without a counter, or with one that stands still, gives 0 J.
TEST(Energy, NoCounterIsNotZero) {
  Card card;
  Work work(card);
  EnergyOptions none = options(card);
  none.joules = [] { return std::vector<std::optional<double>>{std::nullopt}; };
  EXPECT_EQ(measure_energy(work, none)["status"], "unavailable");
  EnergyOptions still = options(card);
  still.joules = [] { return std::vector{std::optional(5.0)}; };
  EXPECT_EQ(measure_energy(work, still)["status"], "unavailable");
}

}  // namespace
}  // namespace tandem
