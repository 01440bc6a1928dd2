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
            const Plan p = make_plan({.m = m, .n = n, .k = 64, .gated = gated}, cluster, band);
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

// Without it: a band's x does not stay in L2 while its columns are done.
TEST(TiledMap, BandsOneAfterTheOther) {
  const Plan p = make_plan({.m = 128 * 2 * 20, .n = 256 * 5, .k = 64}, 2, 8);
  for (int index = 0; index < p.tiles(); ++index) {
    const int cluster_row = tile_place(p, index, 0).row / (2 * kTileRows);
    EXPECT_EQ(cluster_row / 8, index < 8 * 5 ? 0 : index < 16 * 5 ? 1 : 2);
    EXPECT_EQ(tile_place(p, index, 1).row, tile_place(p, index, 0).row + kTileRows);
    EXPECT_EQ(tile_place(p, index, 1).column, tile_place(p, index, 0).column);
  }
}

/// The tile's sums as the multiplying warps leave them: what lies in each two bytes, as row * 256 + column of the stage's rows of x
/// and w. An accumulator's place is that of wgmma's D, a matrix' that of stmatrix (PTX ISA).
std::vector<int> stored_sums() {
  std::vector<int> shared(kTileRows * kSumsRowBytes / 2, -1);
  for (int first_row = 0; first_row < kTileRows; first_row += kWarpRows) {
    for (int piece = 0; piece < kPieces; piece += 2) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        for (int lane = 0; lane < kLanes;
             ++lane) {  // that holds register `matrix`: accumulators [piece or + 1][0, 1 or 2, 3]
          for (int e = 0; e < 2; ++e) {
            const int row = first_row + lane / 4 + 8 * (matrix % 2);
            const int column = 8 * (piece + matrix / 2) + 2 * (lane % 4) + e;
            const int at = matrix_row_at(first_row, piece, 8 * matrix + lane / 4) + 2 * (2 * (lane % 4) + e);
            int& place = shared.at(static_cast<size_t>(at / 2));
            EXPECT_EQ(place, -1) << "two sums in one place";
            place = row * kTileColumns + column;
          }
        }
      }
    }
  }
  return shared;
}

// Without it: an output is another row's or column's sum, or one is not stored: what the finishing lanes read, walked turn by turn.
TEST(TiledMap, FinishingLanesReadEveryOutputOnce) {
  const std::vector<int> shared = stored_sums();
  EXPECT_EQ(std::ranges::count(shared, -1), 0);
  for (bool gated : {false, true}) {
    const Plan p = make_plan({.m = 128, .n = 640, .k = 64, .gated = gated}, 1, 1);
    for (int tile = 0; tile < p.column_tiles; ++tile) {
      const int first_column = tile * tile_columns(gated);
      std::set<int> outputs;
      for (int first = 0; first < kTileRows; first += rows_at_once(gated)) {
        for (int lane = 0; lane < kLanes; ++lane) {
          const Finish mine = finish_place(gated, lane);
          const int row = first + mine.row;
          for (int i = 0; i < 8; ++i) {
            const int column = first_column + 8 * mine.piece + i;  // of y
            EXPECT_TRUE(outputs.insert(row * 4096 + column).second);
            for (int half = 0; half < (gated ? 2 : 1); ++half) {
              const int at = piece_at(row, mine.piece + half * kPieces / 2) + 2 * i;
              const int sum = shared.at(static_cast<size_t>(at / 2));
              EXPECT_EQ(sum / kTileColumns, row);
              const int of_tile = sum % kTileColumns;  // row of the stage's 256 of w
              EXPECT_EQ(box_row(p, first_column, of_tile / kBoxRows) + of_tile % kBoxRows,
                        column + half * p.n);
            }
          }
        }
      }
      EXPECT_EQ(outputs.size(), static_cast<size_t>(kTileRows * tile_columns(gated)));
    }
  }
}

// Without it: leaving or reading sums takes several turns at a bank.
TEST(TiledMap, SumsHaveNoBankConflicts) {
  for (int piece = 0; piece < kPieces; piece += 2) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      std::set<int> sixteens;  // eight rows of 16 bytes at a time
      for (int row = 0; row < 8; ++row) sixteens.insert(matrix_row_at(16, piece, 8 * matrix + row) / 16 % 8);
      EXPECT_EQ(sixteens.size(), 8U);
    }
  }
  for (bool gated : {false, true}) {
    for (int first = 0; first < kLanes; first += 8) {  // eight lanes of 16 bytes at a time
      std::set<int> sixteens;
      for (int lane = first; lane < first + 8; ++lane) {
        const Finish mine = finish_place(gated, lane);
        sixteens.insert(piece_at(6 + mine.row, mine.piece) / 16 % 8);
      }
      EXPECT_EQ(sixteens.size(), 8U);
    }
  }
}

// Without it: tiles leave the period of the swizzle, or the block does not fit in the 227 KB that one may have on sm_90.
TEST(TiledMap, SharedMemory) {
  for (int offset : {kXBytes, kBoxBytes, kStageBytes, kSumsAt, kGroupRows * kRowBytes})
    EXPECT_EQ(offset % kAlignment, 0);
  EXPECT_EQ(kBarriersAt % 8, 0);
  EXPECT_LE(kSharedBytes, 227 * 1024);
  EXPECT_LT(kSharedBytes, 1 << 18) << "addresses of matrix descriptors have 18 bits";
  EXPECT_EQ(kWarps * kWarpRows, kTileRows);
}

}  // namespace
}  // namespace tandem::kernels::tiled_gemm
