#include "kernels/tiled_gemm/tiled_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

namespace tandem::kernels::tiled_gemm {
namespace {

constexpr int kLanes = 32;

/// How often the tiles of all clusters' blocks cover each part of [m, n] that is a tile of y; parts beyond the end count too.
std::vector<std::vector<int>> coverage(const Plan& p, int clusters) {
  std::vector<std::vector<int>> count(static_cast<size_t>(p.row_tiles * p.cluster),
                                      std::vector<int>(static_cast<size_t>(p.column_tiles)));
  const int columns = tile_columns(p.gated);
  for (int cluster = 0; cluster < clusters; ++cluster) {
    for (int index = cluster; index < p.tiles(); index += clusters) {
      for (int rank = 0; rank < p.cluster; ++rank) {
        const TilePlace at = tile_place(p, index, rank);
        EXPECT_EQ(at.row % kTileRows, 0);
        EXPECT_EQ(at.column % columns, 0);
        ++count.at(static_cast<size_t>(at.row / kTileRows)).at(static_cast<size_t>(at.column / columns));
      }
    }
  }
  return count;
}

// Without it: a tile is left out or computed twice where a band, the last one or a cluster's last block is not full.
TEST(TiledMap, EveryTileOnce) {
  for (int m : {1, 127, 128, 129, 513, 2500, 8191}) {
    for (int n : {8, 256, 264, 1000, 4096}) {
      for (int cluster : {1, 2}) {
        for (int band : {1, 3, 8, 1000}) {
          for (bool gated : {false, true}) {
            const Plan p = make_plan(m, n, 64, gated, {.cluster = cluster, .band = band});
            EXPECT_GE(p.row_tiles * p.cluster * kTileRows, m);
            EXPECT_GE(p.column_tiles * tile_columns(gated), n);
            for (int clusters : {1, 7, 66}) {
              for (const auto& row : coverage(p, clusters)) {
                EXPECT_TRUE(std::ranges::all_of(row, [](int c) { return c == 1; }))
                    << m << " x " << n << " cluster " << cluster << " band " << band;
              }
            }
          }
        }
      }
    }
  }
}

// Without it: an accumulator is the product with another row of w than its output's, or gets another's bias.
TEST(TiledMap, AccumulatorsAreTheirRowsOfW) {
  for (bool gated : {false, true}) {
    const Plan p = make_plan(100, 392, 64, gated, {});
    for (int tile = 0; tile < p.column_tiles; ++tile) {
      const int column = tile * tile_columns(gated);
      for (int lane = 0; lane < kLanes; ++lane) {
        for (int group = 0; group < kTileColumns / 8; ++group) {
          const int of_tile = sum_column(lane, group, 0);  // row of the stage's 256 of w
          const int w_row = box_row(p, column, of_tile / kBoxRows) + of_tile % kBoxRows;
          const bool up = gated && of_tile >= kBoxRows;
          const int out = column + (up ? of_tile - kBoxRows : of_tile);
          EXPECT_EQ(w_row, up ? p.n + out : out);
          EXPECT_EQ(bias_at(p, column, lane, group), out < p.n ? w_row : -1);
        }
      }
    }
  }
}

// Without it: a band's x does not stay in L2 while its columns are done.
TEST(TiledMap, BandsOneAfterTheOther) {
  const Plan p = make_plan(128 * 2 * 20, 256 * 5, 64, false, {.cluster = 2, .band = 8});
  for (int index = 0; index < p.tiles(); ++index) {
    const int cluster_row = tile_place(p, index, 0).row / (2 * kTileRows);
    EXPECT_EQ(cluster_row / 8, index < 8 * 5 ? 0 : index < 16 * 5 ? 1 : 2);
    EXPECT_EQ(tile_place(p, index, 1).row, tile_place(p, index, 0).row + kTileRows);
    EXPECT_EQ(tile_place(p, index, 1).column, tile_place(p, index, 0).column);
  }
}

// Without it: the first warpgroup waits for a stage that the second one holds, while that waits for the first: a hang.
TEST(TiledMap, StaggerFitsTheRing) {
  for (int k : {8, 64, 65, 192, 1024}) {
    for (int stagger : {0, 1, 2, 3, 4}) {
      const Plan p = make_plan(1, 8, k, false, {.stagger = stagger});
      EXPECT_EQ(p.steps, (k + 63) / 64);
      EXPECT_LE(p.stagger, p.steps);
      EXPECT_LE(p.stagger, kStages);
      EXPECT_EQ(p.stagger, std::min({stagger, p.steps, kStages}));
    }
  }
}

// Without it: an output is stored in another's place. The copy engine's swizzle is written down a second time here: bits 4 to 6
// of an address are exchanged by bits 7 to 9.
TEST(TiledMap, StripsHoldTheTileAsTheCopyEngineReadsIt) {
  std::vector<std::set<int>> seen(kWarpRows);
  for (int strip = 0; strip < kTileColumns / kStripColumns; ++strip) {
    std::vector<int> shared(kStripBytes / 4, -1);
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int group = 0; group < kStripColumns / 8; ++group) {
        for (int half = 0; half < 2; ++half) {
          const int at = strip_offset(lane, group, half);
          ASSERT_EQ(at % 4, 0);
          ASSERT_EQ(shared.at(static_cast<size_t>(at / 4)), -1) << "two pairs in one place";
          const int all = strip * (kStripColumns / 8) + group;
          ASSERT_EQ(sum_row(lane, 2 * half), sum_row(lane, 2 * half + 1));
          ASSERT_EQ(sum_column(lane, all, 2 * half) + 1, sum_column(lane, all, 2 * half + 1));
          shared[static_cast<size_t>(at / 4)] =
              sum_row(lane, 2 * half) * kTileColumns + sum_column(lane, all, 2 * half);
        }
      }
    }
    for (int row = 0; row < kWarpRows; ++row) {
      for (int column = 0; column < kStripColumns; column += 2) {
        const int plain = row * kRowBytes + 2 * column;
        const int swizzled = plain ^ (((plain >> 7) & 7) << 4);
        EXPECT_EQ(shared.at(static_cast<size_t>(swizzled / 4)),
                  row * kTileColumns + strip * kStripColumns + column);
        seen[static_cast<size_t>(row)].insert(strip * kStripColumns + column);
      }
    }
  }
  for (const auto& columns : seen) EXPECT_EQ(columns.size(), kTileColumns / 2U);
}

// Without it: the epilogue's stores take several turns at a bank.
TEST(TiledMap, StripsHaveNoBankConflicts) {
  for (int group = 0; group < kStripColumns / 8; ++group) {
    for (int half = 0; half < 2; ++half) {
      std::set<int> banks;
      for (int lane = 0; lane < kLanes; ++lane) banks.insert(strip_offset(lane, group, half) / 4 % 32);
      EXPECT_EQ(banks.size(), static_cast<size_t>(kLanes));
    }
  }
}

// Without it: tiles leave the period of the swizzle, or the block does not fit in the 227 KB that one may have on sm_90.
TEST(TiledMap, SharedMemory) {
  for (int offset : {kXBytes, kBoxBytes, kStageBytes, kStripsAt, kGroupRows * kRowBytes, kStripBytes})
    EXPECT_EQ(offset % kAlignment, 0);
  EXPECT_EQ(kBarriersAt % 8, 0);
  EXPECT_LE(kSharedBytes, 227 * 1024);
  EXPECT_LT(kSharedBytes, 1 << 18) << "addresses of matrix descriptors have 18 bits";
  EXPECT_EQ(kWarps * kWarpRows, kTileRows);
}

}  // namespace
}  // namespace tandem::kernels::tiled_gemm
