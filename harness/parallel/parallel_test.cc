#include "harness/parallel/parallel.h"

#include <gtest/gtest.h>

#include "harness/base/error.h"

namespace tandem {
namespace {

// Breaks when slices of all ranks do not tile heads, d_ff and vocabulary (one that tp does not divide).
TEST(LayerParallel, SlicesTile) {
  for (int degree : {1, 2, 4, 8}) {
    int head = 0, column = 0, id = 0;
    for (int rank = 0; rank < degree; ++rank) {
      const auto p = layer_parallel({.layers = 2, .heads = 16, .d_ff = 4096}, 50265, degree, rank, 128);
      EXPECT_EQ(p.head_slice.first, head);
      EXPECT_EQ(p.ffn_slice.first, column);
      EXPECT_EQ(p.vocab_slice.first, id);
      head = p.head_slice.end();
      column = p.ffn_slice.end();
      id = p.vocab_slice.end();
    }
    EXPECT_EQ(head, 16);
    EXPECT_EQ(column, 4096);
    EXPECT_EQ(id, 50265);
  }
}

// Breaks when an impossible split runs, or its message does not name tp and the field.
TEST(LayerParallel, ImpossibleSplitsAreNamed) {
  try {
    layer_parallel({.layers = 2, .heads = 12, .d_ff = 4096}, 100, 8, 0, 128);
    FAIL() << "12 heads over 8 ranks";
  } catch (const ImpossibleCase& e) {
    EXPECT_STREQ(e.what(), "tp: 8 does not divide heads 12");
  }
  EXPECT_THROW(layer_parallel({.layers = 2, .heads = 8, .d_ff = 64}, 9, 8, 0, 128), ImpossibleCase)
      << "shares of 2 leave ranks 5 to 7 no id";
  EXPECT_THROW(layer_parallel({}, 100, 2, 2, 128), UsageError);
  EXPECT_THROW(layer_parallel({}, 100, 0, 0, 128), UsageError);
}

// Breaks when two ranks have one place, or a replica is spread over others.
TEST(RankGroup, EveryRankHasItsPlace) {
  for (int tp : {1, 2, 4}) {
    for (int dp : {1, 2, 3}) {
      for (int rank = 0; rank < tp * dp; ++rank) {
        const RankGroup g = rank_group(tp, dp, rank);
        EXPECT_EQ(g.size(), tp * dp);
        EXPECT_EQ(g.rank(), rank);
        EXPECT_EQ(g.twin(g.replica), rank);
        EXPECT_EQ(rank_group(tp, dp, g.twin(dp - 1)).tensor_rank, g.tensor_rank);
      }
    }
  }
  EXPECT_THROW(rank_group(2, 2, 4), UsageError);
  EXPECT_THROW(rank_group(0, 1, 0), UsageError);
  EXPECT_THROW(rank_group(1, 0, 0), UsageError);
}

}  // namespace
}  // namespace tandem
