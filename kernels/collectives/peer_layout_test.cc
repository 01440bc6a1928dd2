#include "kernels/collectives/peer_layout.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <set>
#include <vector>

#include "kernels/collectives/wait_meter.h"

namespace tandem::kernels {
namespace {

constexpr int64_t kLimits[] = {64 << 10, 80 << 10, 1 << 20};

// Breaks when two lines of one generation share bytes, when a line leaves its slot, or when a warp's neighbours are not
// neighbours in memory.
TEST(PeerLayout, EveryLineHasItsPlace) {
  for (int ranks : {2, 4, 8}) {
    const PeerLayout layout{.ranks = ranks, .oneshot_bytes = 64 << 10, .twoshot_bytes = 64 << 10};
    for (int pieces : {1, 3, 128, 512}) {
      const int64_t rows = layout.oneshot_bytes / (pieces * kPiece) + 1;  // the last one in part
      std::set<int64_t> seen;
      for (uint32_t generation : {6u, 7u}) {
        for (int source = 0; source < ranks; ++source) {
          const int64_t slot = layout.line_offset(generation, source, 0, pieces, 0, 0);
          for (int64_t row = 0; row < rows; ++row) {
            for (int place = 0; place < pieces; ++place) {
              const int64_t first = layout.line_offset(generation, source, row, pieces, place, 0);
              const int64_t second = layout.line_offset(generation, source, row, pieces, place, 1);
              EXPECT_EQ(first, layout.line_offset(generation, source, row, pieces, 0, 0) + place * kPiece);
              EXPECT_EQ(second, first + pieces * kPiece);
              EXPECT_GE(first, slot);
              EXPECT_LE(second + kPiece, slot + layout.slot_bytes());
              EXPECT_EQ(first % kPiece, 0);
              EXPECT_TRUE(seen.insert(first).second);
              EXPECT_TRUE(seen.insert(second).second);
            }
          }
        }
      }
      EXPECT_GE(*seen.begin(), layout.lines_offset());
      EXPECT_LE(*seen.rbegin() + kPiece, layout.staging_offset());
    }
  }
}

// Breaks when a flag lies on another, on the state or on the lines.
TEST(PeerLayout, EveryFlagHasItsPlace) {
  const PeerLayout layout{.ranks = 8, .oneshot_bytes = 64 << 10, .twoshot_bytes = 64 << 10};
  std::set<int64_t> seen;
  for (int phase = 0; phase < PeerLayout::kPhases; ++phase) {
    for (int source = 0; source < 8; ++source) {
      for (int block = 0; block < kMaxPeerBlocks; ++block)
        EXPECT_TRUE(seen.insert(layout.flag_offset(phase, source, block)).second);
    }
  }
  EXPECT_GE(*seen.begin(), static_cast<int64_t>(sizeof(PeerState)));
  EXPECT_EQ(offsetof(PeerState, waited) % alignof(unsigned long long), 0u);
  EXPECT_LE(*seen.rbegin() + 4, layout.lines_offset());
  for (const int64_t offset : seen) EXPECT_EQ(offset % 4, 0);
}

// Breaks when rows that ranks send each other overlap, or leave the arena, at any number of rows and any width.
TEST(PeerLayout, TwoShotRowsDoNotOverlap) {
  for (int ranks : {2, 4, 8}) {
    for (const int64_t limit : kLimits) {
      const PeerLayout layout{.ranks = ranks, .oneshot_bytes = 64 << 10, .twoshot_bytes = limit};
      for (const int64_t row_bytes : {16, 48, 2048, 8192}) {
        const int64_t most = limit / row_bytes;
        for (const int64_t rows : {int64_t{ranks}, ranks + int64_t{1}, most - 1, most}) {
          const int64_t groups = RowGroups{.rows = rows, .ranks = ranks}.groups();
          std::set<int64_t> staged;
          for (int source = 0; source < ranks; ++source) {
            for (int64_t group = 0; group < groups; ++group)
              EXPECT_TRUE(staged.insert(layout.staged_row(source, group, groups, row_bytes)).second);
          }
          EXPECT_EQ(*staged.begin(), layout.staging_offset());
          EXPECT_EQ(*staged.rbegin(), layout.staging_offset() + (ranks * groups - 1) * row_bytes);
          EXPECT_LE(*staged.rbegin() + row_bytes, layout.gathered_offset());
          EXPECT_LE(layout.gathered_row(rows - 1, row_bytes) + row_bytes, layout.arena_bytes());
        }
      }
    }
  }
}

// Breaks when a row is summed by no rank or by two, or when the rows that a block gets sums of are not those that the same
// block of their owners summed: a block would wait for the wrong one.
TEST(RowGroups, EveryRowIsSummedOnceByTheBlockThatIsWaitedFor) {
  for (int ranks : {2, 4, 8}) {
    for (int64_t rows = ranks; rows < 70; ++rows) {
      const RowGroups g{.rows = rows, .ranks = ranks};
      for (int64_t grid = 1; grid <= g.groups(); ++grid) {
        std::vector<int> owner_of(static_cast<size_t>(rows), -1);
        std::vector<int64_t> block_of(static_cast<size_t>(rows), -1);
        for (int64_t group = 0; group < g.groups(); ++group) {
          for (int owner = 0; owner < ranks; ++owner) {
            if (!g.has(group, owner)) continue;
            const auto row = static_cast<size_t>(g.row(group, owner));
            EXPECT_EQ(owner_of[row], -1);
            owner_of[row] = owner;
            block_of[row] = group % grid;
          }
        }
        std::set<int> owners;
        for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
          EXPECT_GE(owner_of[row], 0);
          EXPECT_EQ(block_of[row], static_cast<int64_t>(row) / ranks % grid);
          owners.insert(owner_of[row]);
        }
        EXPECT_EQ(static_cast<int>(owners.size()), ranks);  // nobody is left out, so nobody runs ahead
      }
    }
  }
}

// Breaks when a collective takes the slot of the one before it, or a generation is what fresh memory holds.
TEST(Generations, NeighboursDifferInTheirSlotAlsoAtTheEnd) {
  uint32_t g = 0xfffffff0u;
  for (int i = 0; i < 40; ++i) {
    const uint32_t next = next_generation(g);
    EXPECT_NE(next, 0u);
    EXPECT_NE(next & 1, g & 1);
    g = next;
  }
  EXPECT_LT(g, 40u);
}

// Breaks when waits of several rows or trips are not added up, when work between them counts, or when a wait is told though the clock
// is not known. Two ranks as their kernels go: one comes 700 cycles late to the first trip and waits itself in the second.
TEST(WaitMeter, AddsWaitsAndNothingElse) {
  uint64_t clock = 0;
  WaitMeter early{.mine = true}, late{.mine = true};
  clock = 1000;  // both have sent; the late one's rows come at 1700
  early.begin(clock);
  late.begin(1700);
  early.end(1700);
  late.end(1700);
  late.begin(2500);  // after sums of its own; the early one's come at 2600
  early.begin(2600);
  late.end(2600);
  early.end(2600);
  EXPECT_EQ(early.total, 700u);
  EXPECT_EQ(late.total, 100u);
  const uint64_t before = ~uint64_t{0} - 99;  // of the sum in the arena
  EXPECT_DOUBLE_EQ(*waited_us(before, before + early.total, 1400), 0.5);
  EXPECT_EQ(waited_us(before, before, 1400), 0);
  EXPECT_FALSE(waited_us(0, 700, std::nullopt));
  EXPECT_FALSE(waited_us(0, 700, 0));
}

// Breaks when a message is cut into rows that a block cannot hold.
TEST(PlainRows, FitABlock) {
  for (int64_t pieces = 1; pieces < int64_t{1} << 24; pieces *= 2) {
    EXPECT_GE(plain_row_pieces(pieces), 1);
    EXPECT_LE(plain_row_pieces(pieces), PeerLayout::kMaxRowPieces);
  }
}

}  // namespace
}  // namespace tandem::kernels
