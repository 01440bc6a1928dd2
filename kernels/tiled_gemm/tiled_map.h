// Index arithmetic of the tiled products: which tile is whose, where things lie in shared memory, which output an accumulator is.
// Shared by the kernel and by tests that walk it exhaustively on the CPU.
//
// Words: a tile is what a block computes at a time, 128 rows of x by 256 or 128 of w, by the form (gated: half of them gate rows, half
// their up rows); blocks of a cluster have neighbouring rows of x and the same ones of w, and four of them neighbouring ones of both.
// k is cut into steps of 64, the width of the copy engine's swizzle; a stage holds a step of a tile, each operand in two boxes. Sums
// are left in shared memory, as rows of pieces of 16 bytes, for the warps that finish them.
#pragma once

#include <cstdint>

#include "harness/base/host_device.h"

namespace tandem::kernels::tiled_gemm {

/// How the tensor cores are kept busy during a tile's epilogue.
enum class Form : uint8_t {
  kFinishers,  ///< both warpgroups multiply one tile; warps of their own finish it under the next one
  kPingPong,   ///< each warpgroup has every other tile and finishes it while the other one multiplies
};

inline constexpr int kTileRows = 128;
inline constexpr int kTileDepth = 64;
inline constexpr int kRowBytes = 128;  ///< of a step
inline constexpr int kGroups = 2;      ///< warpgroups that multiply
inline constexpr int kProductRows = 64;
inline constexpr int kGroupThreads = 128;
inline constexpr int kGroupWarps = 4;
inline constexpr int kLanes = 32;
inline constexpr int kWarpRows = 16;
inline constexpr int kThreads = (1 + kGroups) * kGroupThreads;  ///< of the first group a warp copies
inline constexpr int kFinishWarps = 3;
inline constexpr int kMaxCluster = 4;
inline constexpr int kAlignment = 1024;  ///< the swizzle is a function of the address
inline constexpr int kBoxes = 2;         ///< of each operand in a stage

/// Byte offsets from the first multiple of kAlignment in dynamic shared memory.
template <Form F>
struct Layout {
  static constexpr int kColumns = F == Form::kPingPong ? 128 : 256;  ///< rows of w in a tile
  static constexpr int kStages = F == Form::kPingPong ? 6 : 3;
  static constexpr int kXBoxBytes = kTileRows / kBoxes * kRowBytes;
  static constexpr int kWBoxBytes = kColumns / kBoxes * kRowBytes;
  static constexpr int kXBytes = kBoxes * kXBoxBytes;
  static constexpr int kStageBytes = kXBytes + kBoxes * kWBoxBytes;
  static constexpr int kStageWarps = (F == Form::kPingPong ? 1 : kGroups) * kGroupWarps;  ///< that read one
  static constexpr int kPieces = kColumns / 8;  ///< of a row of sums: 16 bytes, eight columns
  static constexpr int kSumsAt = kStages * kStageBytes;
  /// A tile's rows; ping-pong: 16 of each warp, for its two products one after the other.
  static constexpr int kSumsRows = 128;
  static constexpr int kBarriersAt = kSumsAt + kSumsRows * 16 * kPieces;
  static constexpr int kBarriers = 2 * kStages + (F == Form::kPingPong ? 0 : 2 * kGroups);
  static constexpr int kSharedBytes = kAlignment + kBarriersAt + 8 * kBarriers;
};

/// The blocks of a cluster are rows by columns of tiles: 1 x 1, 2 x 1 or 2 x 2, down the rows first.
TANDEM_HD constexpr int cluster_rows(int cluster) {
  return cluster == 1 ? 1 : 2;
}
TANDEM_HD constexpr int cluster_columns(int cluster) {
  return cluster / cluster_rows(cluster);
}
/// Blocks that get the rows of x that `rank` has, a bit each; and those that get the same rows of w.
TANDEM_HD constexpr int x_blocks(int cluster, int rank) {
  const int rows = cluster_rows(cluster);
  return (cluster == 4 ? 1 | 1 << rows : 1) << (rank % rows);
}
TANDEM_HD constexpr int w_blocks(int cluster, int rank) {
  const int rows = cluster_rows(cluster);
  return ((1 << rows) - 1) << (rank / rows * rows);
}
/// Blocks that copy into rank's stages, as many as it copies to.
TANDEM_HD constexpr int partners(int cluster, int rank) {
  return x_blocks(cluster, rank) | w_blocks(cluster, rank);
}
TANDEM_HD constexpr int partner_count(int cluster) {
  return cluster_rows(cluster) + cluster_columns(cluster) - 1;
}

/// How a product is cut. `form`, `cluster` and `band` change its time alone, never its bits.
struct Plan {
  int m = 0;
  int n = 0;  ///< columns of y; gated: half the rows of w
  bool gated = false;
  int steps = 0;         ///< of k
  int columns = 0;       ///< rows of w in a tile
  int cluster = 1;       ///< blocks that share what they read: 1, 2 or 4
  int row_tiles = 0;     ///< of all blocks of a cluster
  int column_tiles = 0;  ///< of all blocks of a cluster
  int band = 1;  ///< rows of tiles that are done before the next ones: their x and all of w stay in L2

  TANDEM_HD constexpr int tiles() const { return row_tiles * column_tiles; }
  TANDEM_HD constexpr int tile_columns() const { return gated ? columns / 2 : columns; }  ///< of y
};

/// What a plan is made of.
struct Shape {
  int m = 0, n = 0, k = 0;
  bool gated = false;
};
TANDEM_HD constexpr Plan make_plan(const Shape& s, Form form, int cluster, int band) {
  const int row_tiles = ceil_div(s.m, kTileRows * cluster_rows(cluster));
  const int columns =
      form == Form::kPingPong ? Layout<Form::kPingPong>::kColumns : Layout<Form::kFinishers>::kColumns;
  return {.m = s.m,
          .n = s.n,
          .gated = s.gated,
          .steps = ceil_div(s.k, kTileDepth),
          .columns = columns,
          .cluster = cluster,
          .row_tiles = row_tiles,
          .column_tiles = ceil_div(s.n, (s.gated ? columns / 2 : columns) * cluster_columns(cluster)),
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
  const int block_rows = cluster_rows(p.cluster);
  const int band_tiles = p.band * p.column_tiles;
  const int first = index / band_tiles * p.band;
  const int left = p.row_tiles - first;
  const int rows = left < p.band ? left : p.band;
  const int within = index % band_tiles;
  return {.row = ((first + within % rows) * block_rows + rank % block_rows) * kTileRows,
          .column = (within / rows * cluster_columns(p.cluster) + rank / block_rows) * p.tile_columns()};
}

/// First row of w of a tile's box: the second one of a gated tile is that of the up rows.
TANDEM_HD constexpr int box_row(const Plan& p, int column, int box) {
  return column + box * (p.gated ? p.n : p.columns / kBoxes);
}

/// A ring's place after `steps` more stages, which another warpgroup consumes.
template <typename Ring>
TANDEM_HD constexpr void skip(Ring& ring, int stages, int steps) {
  const int to = ring.stage + steps;
  ring.stage = to % stages;
  ring.parity ^= static_cast<uint32_t>(to / stages) & 1;
}

/// Byte of a piece of the sums: pieces are exchanged by the row modulo 8, so that eight rows of one piece, which a matrix is stored
/// as, and a whole row, which a warp reads, are in all banks.
template <int Pieces>
TANDEM_HD constexpr int piece_at(int row, int piece) {
  return row * 16 * Pieces + ((piece ^ (row % 8)) << 4);
}
/// Where a lane stores a row of 8 columns when its warp stores the 8x8 matrices of pieces `piece` and `piece` + 1 of rows `row` to
/// `row` + 15: matrix 0 and 1 are the upper and lower rows of the first (accumulators 0, 1 and 2, 3), 2 and 3 of the second.
template <int Pieces>
TANDEM_HD constexpr int matrix_row_at(int row, int piece, int lane) {
  const int matrix = lane / 8;
  return piece_at<Pieces>(row + 8 * (matrix % 2) + lane % 8, piece + matrix / 2);
}

/// What a lane of a finishing warp has of each turn: a warp takes as many rows at a time as its lanes have pieces for.
struct Finish {
  int row = 0;    ///< of the warp's rows of a turn
  int piece = 0;  ///< of the sums; gated: of the gate, and its up values are Pieces / 2 further
};
template <int Pieces>
TANDEM_HD constexpr int rows_at_once(bool gated) {
  return kLanes / (gated ? Pieces / 2 : Pieces);
}
template <int Pieces>
TANDEM_HD constexpr Finish finish_place(bool gated, int lane) {
  const int pieces = gated ? Pieces / 2 : Pieces;
  return {.row = lane / pieces, .piece = lane % pieces};
}

}  // namespace tandem::kernels::tiled_gemm
