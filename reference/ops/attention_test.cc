#include "reference/ops/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "reference/ops/test_views.h"

namespace tandem::reference {
namespace {

const float kLn2 = std::log(2.f);
const float kLn3 = std::log(3.f);
using Kind = AttentionMask::Kind;

// Breaks when scores are not scaled, or the softmax runs over the wrong axis.
TEST(Attention, SoftmaxOfScaledScores) {
  const std::vector<float> q = {2}, k = {0, kLn3}, v = {4, 8};
  const std::vector<int32_t> query_offsets = {0, 1}, key_offsets = {0, 2}, lengths = {2};
  const Matrix y = attention({.q = view(q),
                              .query_offsets = query_offsets,
                              .k = view(k, 2),
                              .v = view(v, 2),
                              .key_offsets = key_offsets,
                              .mask = {Kind::kCross, lengths.data()},
                              .heads = 1,
                              .scale = 0.5,
                              .bias = {}});
  EXPECT_FLOAT_EQ(y.values[0], 7);  // weights 1/4 and 3/4
}

// Breaks when heads share scores or their columns are mixed up.
TEST(Attention, HeadsAreIndependent) {
  const std::vector<float> q = {1, 1}, k = {0, kLn3, /**/ kLn3, 0}, v = {4, 40, /**/ 8, 80};
  const std::vector<int32_t> query_offsets = {0, 1}, key_offsets = {0, 2}, lengths = {2};
  const Matrix y = attention({.q = view(q),
                              .query_offsets = query_offsets,
                              .k = view(k, 2),
                              .v = view(v, 2),
                              .key_offsets = key_offsets,
                              .mask = {Kind::kCross, lengths.data()},
                              .heads = 2,
                              .scale = 1,
                              .bias = {}});
  EXPECT_FLOAT_EQ(y.values[0], 7);
  EXPECT_FLOAT_EQ(y.values[1], 50);
}

// Breaks when a query sees a later key, another sequence's key, or not its own. Two packed sequences of 3 and
// 1 tokens.
TEST(Attention, CausalMaskOfPackedSequences) {
  const std::vector<float> zero(4, 0), v = {2, 4, 9, 100};  // equal scores: the mean of what is seen
  const std::vector<int32_t> offsets = {0, 3, 4}, lengths = {3, 1};
  AttentionParams p{.q = view(zero, 4),
                    .query_offsets = offsets,
                    .k = view(zero, 4),
                    .v = view(v, 4),
                    .key_offsets = offsets,
                    .mask = {Kind::kCausal, lengths.data()},
                    .heads = 1,
                    .scale = 1,
                    .bias = {}};
  EXPECT_EQ(attention(p).values, (std::vector<float>{2, 3, 5, 100}));
  p.mask.kind = Kind::kPadding;
  EXPECT_EQ(attention(p).values, (std::vector<float>{5, 5, 5, 100}));
}

// Breaks when a decode step counts its query from 0, or reads cache rows after the valid ones.
TEST(Attention, OneStepOnACache) {
  const std::vector<float> q = {0, 0};
  const std::vector<float> k(8, 0), v = {1, 3, 5, 1e6f, /**/ 2, 4, 6, 1e6f};  // capacity 4, three valid
  const std::vector<int32_t> query_offsets = {0, 1, 2}, key_offsets = {0, 4}, lengths = {3, 3};
  const Matrix y = attention({.q = view(q, 2),
                              .query_offsets = query_offsets,
                              .query_position = 2,
                              .k = view(k, 8),
                              .v = view(v, 8),
                              .key_offsets = key_offsets,
                              .mask = {Kind::kCausal, lengths.data()},
                              .heads = 1,
                              .scale = 1,
                              .bias = {}});
  EXPECT_EQ(y.values, (std::vector<float>{3, 4}));
}

// Breaks when the bias is scaled, looked up with query - key, or given to the wrong head. 8 buckets to the
// left and 8 to the right: a distance below 4 is its own bucket, keys to the right start at 8.
TEST(Attention, RelativeBias) {
  std::vector<float> table(16 * 2, 0);  // [buckets, heads]
  table[1 * 2 + 0] = kLn3;              // head 0: key one to the left
  table[(8 + 1) * 2 + 1] = kLn2;        // head 1: key one to the right
  const std::vector<float> zero(4, 0), v = {4, 4, /**/ 8, 8};
  const std::vector<int32_t> offsets = {0, 2}, lengths = {2};
  AttentionParams p{.q = view(zero, 2),
                    .query_offsets = offsets,
                    .k = view(zero, 2),
                    .v = view(v, 2),
                    .key_offsets = offsets,
                    .mask = {Kind::kPadding, lengths.data()},
                    .heads = 2,
                    .scale = 0.125,
                    .bias = {.table = view(table, 16), .bidirectional = true, .max_distance = 128}};
  const Matrix y = attention(p);
  EXPECT_FLOAT_EQ(y.values[0], 6);                  // query 0, head 0: plain mean
  EXPECT_FLOAT_EQ(y.values[1], (4 + 2 * 8) / 3.f);  // query 0, head 1: key 1 weighs 2
  EXPECT_FLOAT_EQ(y.values[2], (3 * 4 + 8) / 4.f);  // query 1, head 0: key 0 weighs 3
  EXPECT_FLOAT_EQ(y.values[3], 6);

  // One direction: 16 buckets to the left, keys to the right share bucket 0; the step at position 1 sees the
  // same.
  p.bias.bidirectional = false;
  p.mask.kind = Kind::kCausal;
  const Matrix causal = attention(p);
  EXPECT_FLOAT_EQ(causal.values[0], 4);
  EXPECT_FLOAT_EQ(causal.values[2], 5);
  const std::vector<int32_t> one_query = {0, 1};
  const std::vector<float> q = {0, 0};
  p.q = view(q);
  p.query_offsets = one_query;
  p.query_position = 1;
  EXPECT_EQ(attention(p).values, std::vector<float>(causal.row(1), causal.row(1) + 2));
}

// Breaks when the largest score is not taken off before exp, or a query that sees nothing divides by zero.
TEST(Attention, LargeScoresAndNoKeys) {
  const std::vector<float> q = {1000, 1000}, k = {1000, 999}, v = {4, 8};
  const std::vector<int32_t> query_offsets = {0, 1, 2}, key_offsets = {0, 2}, lengths = {2, 0};
  const Matrix y = attention({.q = view(q, 2),
                              .query_offsets = query_offsets,
                              .k = view(k, 2),
                              .v = view(v, 2),
                              .key_offsets = key_offsets,
                              .mask = {Kind::kCross, lengths.data()},
                              .heads = 1,
                              .scale = 1,
                              .bias = {}});
  EXPECT_FLOAT_EQ(y.values[0], 4);
  EXPECT_EQ(y.values[1], 0);
}

}  // namespace
}  // namespace tandem::reference
