#include "reference/model/next_token.h"

#include <gtest/gtest.h>

namespace tandem::reference {
namespace {

constexpr int32_t kEos[] = {2, 7};

// Breaks when a sequence goes on after its end, ends at a token that is none, or its pad counts as an eos.
TEST(NextToken, EndsAtTheFirstEos) {
  const EndRule rule{.eos_ids = kEos, .pad_id = 7};
  const auto expect = [&](int32_t chosen, bool before, int32_t id, bool ended) {
    const NextToken next = next_token(chosen, before, rule);
    EXPECT_EQ(next.id, id) << chosen << before;
    EXPECT_EQ(next.ended, ended) << chosen << before;
  };
  expect(5, false, 5, false);
  expect(2, false, 2, true);
  expect(7, false, 7, true);
  expect(5, true, 7, true);
  expect(2, true, 7, true);
}

// Breaks when a fixed length stops at an eos.
TEST(NextToken, NoRuleEndsNothing) {
  EXPECT_EQ(next_token(2, false, {.pad_id = 9}).id, 2);
  EXPECT_FALSE(next_token(2, false, {.pad_id = 9}).ended);
}

// Breaks when rows are mixed up, or a tie does not go to the lowest id.
TEST(NextToken, GreedyTakesEachRowsArgMax) {
  const std::vector<float> logits = {0, 1, 1, 0,   //
                                     0, 0, 3, 0,   //
                                     9, 0, 0, 0};  //
  const auto next =
      greedy_tokens({logits.data(), 3, 4}, {false, false, true}, {.eos_ids = kEos, .pad_id = 3});
  ASSERT_EQ(next.size(), 3u);
  EXPECT_EQ(next[0].id, 1);
  EXPECT_FALSE(next[0].ended);
  EXPECT_EQ(next[1].id, 2);
  EXPECT_TRUE(next[1].ended);
  EXPECT_EQ(next[2].id, 3);
  EXPECT_TRUE(next[2].ended);
}

// Breaks when greedy choice looks at the draw, or sampling does not.
TEST(NextToken, ChoosesByTheConfig) {
  GenerationConfig g;
  const std::vector<float> scores = {0, 0.5f, 0, 0};
  EXPECT_EQ(choose_token(g, scores, 0.999), 1);
  g.sample = true;
  EXPECT_EQ(choose_token(g, scores, 0.0), 0);
  EXPECT_EQ(choose_token(g, scores, 0.999), 3);
}

}  // namespace
}  // namespace tandem::reference
