#include "kernels/tiled_gemm/tiled_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <set>
#include <vector>

#include "kernels/common/ring.h"

namespace tandem::kernels::tiled_gemm {
namespace {

/// How often the tiles of all clusters' blocks cover each part of [m, n] that is a tile of y; parts beyond the end count too.
std::vector<std::vector<int>> coverage(const Plan& p, int clusters) {
  std::vector<std::vector<int>> count(static_cast<size_t>(p.row_tiles * kCluster),
                                      std::vector<int>(static_cast<size_t>(p.column_tiles)));
  const int columns = tile_columns(p.gated);
  for (int cluster = 0; cluster < clusters; ++cluster) {
    for (int index = cluster; index < p.tiles(); index += clusters) {
      for (int rank = 0; rank < kCluster; ++rank) {
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
  for (int m : {1, 128, 129, 513, 2500, 8191}) {
    for (int n : {8, 128, 264, 1000, 4096}) {
      for (int band : {1, 3, 8, 1000}) {
        for (bool gated : {false, true}) {
          const Plan p = make_plan({.m = m, .n = n, .k = 64, .gated = gated}, band);
          EXPECT_GE(p.row_tiles * kCluster * kTileRows, m);
          EXPECT_GE(p.column_tiles * tile_columns(gated), n);
          for (int clusters : {1, 7, 66}) {
            for (const auto& row : coverage(p, clusters)) {
              EXPECT_TRUE(std::ranges::all_of(row, [](int c) { return c == 1; }))
                  << m << " x " << n << " band " << band;
            }
          }
        }
      }
    }
  }
}

// Without it: a band's x does not stay in L2 while its columns are done.
TEST(TiledMap, BandsOneAfterTheOther) {
  const Plan p = make_plan({.m = 128 * 2 * 20, .n = 128 * 5, .k = 64}, 8);
  for (int index = 0; index < p.tiles(); ++index) {
    const int cluster_row = tile_place(p, index, 0).row / (2 * kTileRows);
    EXPECT_EQ(cluster_row / 8, index < 8 * 5 ? 0 : index < 16 * 5 ? 1 : 2);
    EXPECT_EQ(tile_place(p, index, 1).row, tile_place(p, index, 0).row + kTileRows);
    EXPECT_EQ(tile_place(p, index, 1).column, tile_place(p, index, 0).column);
  }
}

/// A barrier as the hardware has it: a wait for a parity passes where the phase that runs has the other one.
struct Barrier {
  int expected = 1;
  int arrived = 0;
  uint32_t phase = 0;
  void arrive() {
    if (++arrived == expected) {
      arrived = 0;
      ++phase;
    }
  }
  bool passed(uint32_t parity) const { return (phase & 1) != parity; }
};

/// The kernel of a cluster, step by step in any order: every block's producer and two warpgroups.
class PingPong {
 public:
  PingPong(const Plan& plan, int stride, bool turns, uint32_t seed)
      : plan_(plan), stride_(stride), turns_(turns), random_(seed) {
    for (Block& block : blocks_) {
      for (Stage& stage : block.stages) stage.empty.expected = kCluster;
      block.groups[1].index = stride;
      skip(block.groups[1].ring, plan.steps);
    }
  }

  /// Whether all ends, with every stage read once it has all of its boxes, by the right warpgroup.
  bool run() {
    const int actors = 3 * kCluster;
    int idle = 0;
    while (idle < 400 * actors) {
      const int actor = static_cast<int>(random_() % static_cast<uint32_t>(actors));
      const bool moved = actor % 3 == 2 ? produce(actor / 3) : multiply(actor / 3, actor % 3);
      if (wrong_) return false;
      idle = moved ? 0 : idle + 1;
    }
    for (int rank = 0; rank < kCluster; ++rank) {
      const Block& b = blocks_[static_cast<size_t>(rank)];
      if (b.index < plan_.tiles() || b.groups[0].index < plan_.tiles() || b.groups[1].index < plan_.tiles())
        return false;
      if (b.turns[0] != 0 || b.turns[1] != 0) return false;  // given and not taken
      Ring<kStages> ring = b.ring;                           // what the producer waits for at its end
      for (int i = 0; i < kStages; ++i, ring.advance())
        if (!b.stages[static_cast<size_t>(ring.stage)].empty.passed(ring.parity ^ 1)) return false;
    }
    return true;
  }

 private:
  struct Stage {
    Barrier full, empty;
    std::vector<int> boxes;  // tile index * steps + step of each, as delivered
    int awaited = 0;
    bool armed = false;
    void check_full() {
      if (!armed || awaited < 2 * kBoxes) return;
      armed = false;
      awaited -= 2 * kBoxes;
      full.arrive();
    }
  };
  struct Group {
    Ring<kStages> ring;
    int index = 0, step = 0, done = 0, previous = -1;
    bool has_turn = false;
  };
  struct Block {
    std::array<Stage, kStages> stages;
    std::array<Group, 2> groups;
    std::array<int, 2> turns = {};
    Ring<kStages> ring;
    int index = 0, step = 0;
  };

  bool produce(int rank) {
    Block& b = blocks_[static_cast<size_t>(rank)];
    if (b.index >= plan_.tiles()) return false;
    const auto at = static_cast<size_t>(b.ring.stage);
    if (!b.stages[at].empty.passed(b.ring.parity ^ 1)) return false;
    b.stages[at].armed = true;
    const auto deliver = [&](int blocks, int boxes) {
      for (int to = 0; to < kCluster; ++to) {
        if ((blocks >> to & 1) == 0) continue;
        Stage& stage = blocks_[static_cast<size_t>(to)].stages[at];
        for (int i = 0; i < boxes; ++i) stage.boxes.push_back(b.index * plan_.steps + b.step);
        stage.awaited += boxes;
        stage.check_full();
      }
    };
    deliver(1 << rank, kBoxes);       // of x
    deliver((1 << kCluster) - 1, 1);  // of w
    b.stages[at].check_full();
    b.ring.advance();
    if (++b.step == plan_.steps) {
      b.step = 0;
      b.index += stride_;
    }
    return true;
  }

  bool multiply(int rank, int group) {
    Block& b = blocks_[static_cast<size_t>(rank)];
    Group& g = b.groups[static_cast<size_t>(group)];
    if (g.index >= plan_.tiles()) return false;
    if (g.step == 0 && g.index != 0 && turns_ && !g.has_turn) {
      int& turn = b.turns[static_cast<size_t>(group)];
      if (turn == 0) return false;
      --turn;
      g.has_turn = true;
    }
    if (g.step < plan_.steps) {
      Stage& stage = b.stages[static_cast<size_t>(g.ring.stage)];
      if (!stage.full.passed(g.ring.parity)) return false;
      const std::vector<int> want(2 * kBoxes, g.index * plan_.steps + g.step);
      wrong_ = wrong_ || stage.boxes != want;
      if (g.step > 0) give_back(rank, g.previous);
      g.previous = g.ring.stage;
      g.ring.advance();
      if (++g.step == plan_.steps && turns_ && g.index + stride_ < plan_.tiles())
        ++b.turns[static_cast<size_t>(1 - group)];
      return true;
    }
    give_back(rank, g.previous);
    skip(g.ring, plan_.steps);
    g.index += kGroups * stride_;
    g.step = 0;
    g.has_turn = false;
    return true;
  }

  void give_back(int rank, int at) {
    blocks_[static_cast<size_t>(rank)].stages[static_cast<size_t>(at)].boxes.clear();
    for (Block& block : blocks_) block.stages[static_cast<size_t>(at)].empty.arrive();
  }

  Plan plan_;
  int stride_;
  bool turns_;
  bool wrong_ = false;
  std::minstd_rand random_;
  std::array<Block, kCluster> blocks_;
};

// Without it: the ring hangs, or a warpgroup reads what has not come or is the other one's, for some number of tiles or depth.
TEST(TiledMap, PingPongRing) {
  int wrong_without_turns = 0;
  for (int steps : {1, 2, 3, 5, 6, 7, 12, 16}) {
    for (int tiles : {1, 2, 3, 4, 9, 10}) {
      for (int stride : {1, 4}) {
        const Plan p = make_plan({.m = kTileRows * tiles * kCluster, .n = 8, .k = steps * kTileDepth}, 3);
        ASSERT_EQ(p.tiles(), tiles);
        for (uint32_t seed = 1; seed <= 3; ++seed) {
          EXPECT_TRUE(PingPong(p, stride, true, seed).run())
              << "steps " << steps << " tiles " << tiles << " stride " << stride << " seed " << seed;
          if (!PingPong(p, stride, false, seed).run()) ++wrong_without_turns;
        }
      }
    }
  }
  EXPECT_GT(wrong_without_turns, 0) << "this test does not see a stage that is taken a round too early";
}

/// The tile's sums as the warps leave them: what lies in each two bytes, as row * columns + column of the rows left. An
/// accumulator's place is that of wgmma's D, a matrix' that of stmatrix (PTX ISA).
std::vector<int> stored_sums() {
  std::vector<int> shared(static_cast<size_t>(kSumsRows * 8 * kPieces), -1);
  for (int first_row = 0; first_row < kSumsRows; first_row += kWarpRows) {
    for (int piece = 0; piece < kPieces; piece += 2) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        // The lane holds register `matrix`: accumulators [piece or + 1][0, 1 or 2, 3].
        for (int lane = 0; lane < kLanes; ++lane) {
          for (int e = 0; e < 2; ++e) {
            const int row = first_row + lane / 4 + 8 * (matrix % 2);
            const int column = 8 * (piece + matrix / 2) + 2 * (lane % 4) + e;
            const int at = matrix_row_at(first_row, piece, 8 * matrix + lane / 4) + 2 * (2 * (lane % 4) + e);
            int& place = shared.at(static_cast<size_t>(at / 2));
            EXPECT_EQ(place, -1) << "two sums in one place";
            place = row * 8 * kPieces + column;
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
    const Plan p = make_plan({.m = 128, .n = 640, .k = 64, .gated = gated}, 1);
    for (int tile = 0; tile < p.column_tiles; ++tile) {
      const int first_column = tile * tile_columns(gated);
      std::set<int> outputs;
      for (int first = 0; first < kSumsRows; first += rows_at_once(gated)) {
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
              const int of_tile = sum % kTileColumns;  // row of the stage's rows of w
              EXPECT_EQ(box_row(p, first_column, of_tile / kBoxRows) + of_tile % kBoxRows,
                        column + half * p.n);
            }
          }
        }
      }
      EXPECT_EQ(outputs.size(), static_cast<size_t>(kSumsRows * tile_columns(gated)));
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
  for (int offset : {kBoxBytes, kStageBytes, kSumsAt, kProductRows * kRowBytes})
    EXPECT_EQ(offset % kAlignment, 0);
  EXPECT_EQ(kBarriersAt % 8, 0);
  EXPECT_LE(kSharedBytes, 227 * 1024);
  EXPECT_LT(kSharedBytes, 1 << 18) << "addresses of matrix descriptors have 18 bits";
  EXPECT_EQ(kSumsRows, kTileRows);
}

}  // namespace
}  // namespace tandem::kernels::tiled_gemm
