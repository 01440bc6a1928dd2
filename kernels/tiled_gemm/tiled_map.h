// Index arithmetic of the tiled products: which tile is whose, where things lie in shared memory, which output an accumulator is.
// Shared by the kernel and by tests that walk it exhaustively on the CPU.
//
// Words: a tile is what a block computes at a time, 128 rows of x by 256 of w (gated: 128 gate rows and their 128 up rows); the
// blocks of a cluster have neighbouring rows of x and the same ones of w. k is cut into steps of 64, the width of the copy engine's swizzle; a stage holds a step of a tile.
#pragma once

#include <cstdint>

#include "harness/base/host_device.h"

namespace tandem::kernels::tiled_gemm {

inline constexpr int kTileRows = 128;
inline constexpr int kTileColumns = 256;
inline constexpr int kTileDepth = 64;
inline constexpr int kRowBytes = 128;  ///< of a step, and of a strip of y
inline constexpr int kGroups = 2;      ///< warpgroups that multiply, each with half the rows of a tile
inline constexpr int kGroupRows = kTileRows / kGroups;
inline constexpr int kGroupThreads = 128;
inline constexpr int kWarpRows = 16;
inline constexpr int kWarps = kTileRows / kWarpRows;  ///< that multiply
inline constexpr int kThreads = (1 + kGroups) * kGroupThreads;
inline constexpr int kMaxCluster = 2;

// Byte offsets from the first multiple of 1024 in dynamic shared memory: the swizzle is a function of the address.
inline constexpr int kAlignment = 1024;
inline constexpr int kStages = 4;
inline constexpr int kXBytes = kTileRows * kRowBytes;
inline constexpr int kBoxRows = 128;  ///< of w in one copy
inline constexpr int kBoxes = kTileColumns / kBoxRows;
inline constexpr int kBoxBytes = kBoxRows * kRowBytes;
inline constexpr int kStageBytes = kXBytes + kBoxes * kBoxBytes;
/// y leaves in strips of 64 columns and a warp's 16 rows; while one leaves the other is written. A residual comes into them first.
inline constexpr int kStripColumns = 64;
inline constexpr int kStripBytes = kWarpRows * kRowBytes;
inline constexpr int kStrips = 2;
inline constexpr int kStripsAt = kStages * kStageBytes;
inline constexpr int kBarriersAt = kStripsAt + kWarps * kStrips * kStripBytes;
inline constexpr int kBarriers = 2 * kStages + kWarps * kStrips + 1;
inline constexpr int kSharedBytes = kAlignment + kBarriersAt + 8 * kBarriers;

/// How a product is cut. `band` and `stagger` change its time alone, never its bits.
struct Plan {
  int m = 0;
  int n = 0;  ///< columns of y; gated: half the rows of w
  bool gated = false;
  int steps = 0;      ///< of k
  int cluster = 1;    ///< blocks that share what they read of w: 1 or 2
  int row_tiles = 0;  ///< of all blocks of a cluster
  int column_tiles = 0;
  int band = 1;  ///< rows of tiles that are done before the next ones: their x and all of w stay in L2
  int stagger =
      0;  ///< steps that the second warpgroup begins behind the first: one stores while the other multiplies

  TANDEM_HD constexpr int tiles() const { return row_tiles * column_tiles; }
};

/// Columns of y in a tile.
TANDEM_HD constexpr int tile_columns(bool gated) {
  return gated ? kTileColumns / 2 : kTileColumns;
}

/// What a plan is made of.
struct Cut {
  int cluster = 1;
  int band = 1;
  int stagger = 0;
};
TANDEM_HD constexpr Plan make_plan(int m, int n, int k, bool gated, const Cut& cut) {
  const auto [cluster, band, stagger] = cut;
  const int steps = ceil_div(k, kTileDepth);
  const int most =
      steps < kStages ? steps : kStages;  // the first one may not need a stage that the second one holds
  const int row_tiles = ceil_div(m, kTileRows * cluster);
  return {.m = m,
          .n = n,
          .gated = gated,
          .steps = steps,
          .cluster = cluster,
          .row_tiles = row_tiles,
          .column_tiles = ceil_div(n, tile_columns(gated)),
          .band = band < row_tiles ? band : row_tiles,
          .stagger = stagger < most ? stagger : most};
}

/// First row and column of y.
struct TilePlace {
  int row = 0;
  int column = 0;
};
/// Of the index-th tile of a cluster, as its block `rank` has it: down the rows of a band, then on to the next column. Rows and
/// columns may begin beyond the end.
TANDEM_HD constexpr TilePlace tile_place(const Plan& p, int index, int rank) {
  const int band_tiles = p.band * p.column_tiles;
  const int first = index / band_tiles * p.band;
  const int left = p.row_tiles - first;
  const int rows = left < p.band ? left : p.band;
  const int within = index % band_tiles;
  return {.row = ((first + within % rows) * p.cluster + rank) * kTileRows,
          .column = within / rows * tile_columns(p.gated)};
}

/// First row of w of a tile's box: the second one of a gated tile is that of the up rows.
TANDEM_HD constexpr int box_row(const Plan& p, int column, int box) {
  return column + box * (p.gated ? p.n : kBoxRows);
}

/// Row of a warp's 16 and column of the tile's 256 of accumulator [group][e] of a lane (PTX ISA, wgmma's D).
TANDEM_HD constexpr int sum_row(int lane, int e) {
  return lane / 4 + 8 * (e / 2);
}
TANDEM_HD constexpr int sum_column(int lane, int group, int e) {
  return 8 * group + 2 * (lane % 4) + e % 2;
}

/// Bias of accumulator [group][0], or -1 beyond the end.
TANDEM_HD constexpr int bias_at(const Plan& p, int column, int lane, int group) {
  const int up = p.gated && group >= kBoxRows / 8 ? 1 : 0;
  const int at = column + sum_column(lane, group - up * (kBoxRows / 8), 0);
  return at < p.n ? at + up * p.n : -1;
}

/// Byte in a strip of the two neighbours that begin with accumulator [group][2 half], `group` counted from the strip's first: the
/// copy engine's 128-byte swizzle exchanges the 16-byte pieces of a row by the row modulo 8.
TANDEM_HD constexpr int strip_offset(int lane, int group, int half) {
  const int row = lane / 4;
  return (row + 8 * half) * kRowBytes + ((group ^ row) << 4) + 4 * (lane % 4);
}

}  // namespace tandem::kernels::tiled_gemm
