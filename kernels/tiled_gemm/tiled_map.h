// Index arithmetic of the tiled products: which tile is whose, where things lie in shared memory, which output an accumulator is.
// Shared by the kernel and by tests that walk it exhaustively on the CPU.
//
// Words: a tile is what a warpgroup computes at a time, 128 rows of x by 128 of w (gated: 64 gate rows and their 64 up rows); the
// two blocks of a cluster have neighbouring rows of x and the same ones of w. k is cut into steps of 64, the width of the copy
// engine's swizzle; a stage holds a step of a tile, each operand in two boxes. Sums are left in shared memory, as rows of pieces of 16
// bytes, for the lanes that finish them.
#pragma once

#include <cstdint>

#include "harness/base/host_device.h"

namespace tandem::kernels::tiled_gemm {

inline constexpr int kTileRows = 128;
inline constexpr int kTileColumns = 128;  ///< rows of w
inline constexpr int kTileDepth = 64;
inline constexpr int kRowBytes = 128;  ///< of a step
inline constexpr int kCluster = 2;     ///< blocks that share what they read of w
inline constexpr int kGroups = 2;      ///< warpgroups that multiply, each with every other tile of the block
inline constexpr int kProductRows = 64;
inline constexpr int kGroupThreads = 128;
inline constexpr int kGroupWarps = 4;
inline constexpr int kLanes = 32;
inline constexpr int kWarpRows = 16;
inline constexpr int kThreads = (1 + kGroups) * kGroupThreads;  ///< of the first group a thread copies

// Byte offsets from the first multiple of kAlignment in dynamic shared memory: the swizzle is a function of the address.
inline constexpr int kAlignment = 1024;
inline constexpr int kStages = 6;
inline constexpr int kBoxes = 2;  ///< of each operand in a stage; of w each block copies one
inline constexpr int kBoxRows = 64;
inline constexpr int kBoxBytes = kBoxRows * kRowBytes;
inline constexpr int kOperandBytes = kBoxes * kBoxBytes;
inline constexpr int kStageBytes = 2 * kOperandBytes;
inline constexpr int kPieces = kTileColumns / 8;  ///< of a row of sums: 16 bytes, eight columns
inline constexpr int kSumsAt = kStages * kStageBytes;
/// 16 of each warp, for its two products one after the other.
inline constexpr int kSumsRows = kGroups * kGroupWarps * kWarpRows;
inline constexpr int kBarriersAt = kSumsAt + kSumsRows * 16 * kPieces;
inline constexpr int kBarriers = 2 * kStages;
inline constexpr int kSharedBytes = kAlignment + kBarriersAt + 8 * kBarriers;

/// How a product is cut. `band` changes its time alone, never its bits.
struct Plan {
  int m = 0;
  int n = 0;  ///< columns of y; gated: half the rows of w
  bool gated = false;
  int steps = 0;      ///< of k
  int row_tiles = 0;  ///< of both blocks of a cluster
  int column_tiles = 0;
  int band = 1;  ///< rows of tiles that are done before the next ones: their x and all of w stay in L2

  TANDEM_HD constexpr int tiles() const { return row_tiles * column_tiles; }
};

/// Columns of y in a tile.
TANDEM_HD constexpr int tile_columns(bool gated) {
  return gated ? kTileColumns / 2 : kTileColumns;
}

/// What a plan is made of.
struct Shape {
  int m = 0, n = 0, k = 0;
  bool gated = false;
};
TANDEM_HD constexpr Plan make_plan(const Shape& s, int band) {
  const int row_tiles = ceil_div(s.m, kTileRows * kCluster);
  return {.m = s.m,
          .n = s.n,
          .gated = s.gated,
          .steps = ceil_div(s.k, kTileDepth),
          .row_tiles = row_tiles,
          .column_tiles = ceil_div(s.n, tile_columns(s.gated)),
          .band = band < row_tiles ? band : row_tiles};
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
  return {.row = ((first + within % rows) * kCluster + rank) * kTileRows,
          .column = within / rows * tile_columns(p.gated)};
}

/// First row of w of a tile's box: the second one of a gated tile is that of the up rows.
TANDEM_HD constexpr int box_row(const Plan& p, int column, int box) {
  return column + box * (p.gated ? p.n : kBoxRows);
}

/// A ring's place after `steps` more stages, which another warpgroup consumes.
template <typename Ring>
TANDEM_HD constexpr void skip(Ring& ring, int steps) {
  const int to = ring.stage + steps;
  ring.stage = to % kStages;
  ring.parity ^= static_cast<uint32_t>(to / kStages) & 1;
}

/// Byte of a piece of the sums: pieces are exchanged by the row modulo 8, so that eight rows of one piece, which a matrix is stored
/// as, and rows, which a warp reads, are in all banks.
TANDEM_HD constexpr int piece_at(int row, int piece) {
  return row * 16 * kPieces + ((piece ^ (row % 8)) << 4);
}
/// Where a lane stores a row of 8 columns when its warp stores the 8x8 matrices of pieces `piece` and `piece` + 1 of rows `row` to
/// `row` + 15: matrix 0 and 1 are the upper and lower rows of the first (accumulators 0, 1 and 2, 3), 2 and 3 of the second.
TANDEM_HD constexpr int matrix_row_at(int row, int piece, int lane) {
  const int matrix = lane / 8;
  return piece_at(row + 8 * (matrix % 2) + lane % 8, piece + matrix / 2);
}

/// What a lane of a finishing warp has of each turn: a warp takes as many rows at a time as its lanes have pieces for.
struct Finish {
  int row = 0;    ///< of the warp's rows of a turn
  int piece = 0;  ///< of the sums; gated: of the gate, and its up values are kPieces / 2 further
};
TANDEM_HD constexpr int rows_at_once(bool gated) {
  return kLanes / (gated ? kPieces / 2 : kPieces);
}
TANDEM_HD constexpr Finish finish_place(bool gated, int lane) {
  const int pieces = gated ? kPieces / 2 : kPieces;
  return {.row = lane / pieces, .piece = lane % pieces};
}

}  // namespace tandem::kernels::tiled_gemm
