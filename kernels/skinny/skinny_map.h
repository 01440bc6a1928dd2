// Index arithmetic of the skinny products: who reads which weight, where it sits, who writes which output.
// Shared by the kernels and by tests that walk it exhaustively on the CPU.
//
// Words: a tile is the set of weight rows a block works on at a time. k is cut into units (what one warp loads with one
// instruction a row); a cluster's blocks take consecutive slices of units; a slice is staged in shared memory chunk by
// chunk; the warps_k warps that share weight rows take consecutive parts of every chunk.
#pragma once

#include <cstdint>

#include "harness/base/host_device.h"
#include "kernels/skinny/skinny_shape.h"

namespace tandem::kernels {

/// First of the items [0, total) that part `i` of `1 << parts_shift` owns; parts differ by at most one item.
TANDEM_HD constexpr int part_begin(int total, int parts_shift, int i) {
  return (total * i) >> parts_shift;
}

/// Buffers of the ring through which x passes when it does not fit in shared memory.
inline constexpr int kSkinnyStages = 4;
/// Rows of x whose partial sums are exchanged at a time.
inline constexpr int kSkinnyPassRows = 16;

/// Everything about the cut that the kernel needs; made by plan_skinny.
struct SkinnyPlan {
  int m = 0;
  int n = 0;  ///< outputs of a row; gated: half the weight rows
  int k = 0;
  bool gated = false;

  int batch = 1;       ///< rows of x of a block; gridDim.y blocks share m
  int tile_shift = 0;  ///< log2 of a tile's weight rows
  int tiles = 0;
  int wk_shift = 0;       ///< log2 of the warps that split k
  int cluster_shift = 0;  ///< log2 of the blocks that split k
  int unit = 0;           ///< elements of k
  int units = 0;          ///< ceil(k / unit)
  int chunk_units = 0;    ///< units of a chunk
  int chunks = 0;         ///< of a slice; the last may be short or empty
  bool resident =
      true;  ///< a slice of x stays in shared memory; else its chunks pass through kSkinnyStages buffers

  int norm_warps = 0;  ///< warps that normalise rows, with a norm
  int x_stride =
      0;  ///< elements between staged rows: an odd multiple of 64 bytes, so that two rows x 64 bytes fall
          ///< into different banks
  int buffer_elements = 0;  ///< of the ring's buffers; 0 when resident
  int red_ld =
      0;  ///< floats between rows of the partial sums; 8 or 24 modulo 32, so that four rows x 8 floats fall
          ///< into different banks
  int share_shift = 0;  ///< log2 of the outputs of a tile that one block of the cluster finishes

  // Byte offsets in dynamic shared memory; staged x starts at 0.
  int ring_offset = 0;  ///< weights in flight (mma): 16 bytes [warps][depth][loads][lanes]
  int red_offset =
      0;  ///< float [warps_k][pass rows][red_ld]; before that, the norm's scratch float [norm_warps][k]
  int bias_offset = 0;     ///< float [tile rows]
  int norm_offset = 0;     ///< T [2][k]: gamma, beta
  int recv_offset = 0;     ///< float [cluster][planes][share], with a cluster
  int barrier_offset = 0;  ///< uint64_t [kSkinnyStages + 1]
  int shared_bytes = 0;

  int grid_x = 0;
  int grid_y = 0;

  TANDEM_HD constexpr int tile_rows() const { return 1 << tile_shift; }
  TANDEM_HD constexpr int planes() const { return gated ? 2 : 1; }
  TANDEM_HD constexpr int output_shift() const { return tile_shift - (gated ? 1 : 0); }
  /// Output columns of a tile.
  TANDEM_HD constexpr int tile_outputs() const { return 1 << output_shift(); }
  TANDEM_HD constexpr int cluster() const { return 1 << cluster_shift; }
  TANDEM_HD constexpr int warps_k() const { return 1 << wk_shift; }
  TANDEM_HD constexpr int share() const { return 1 << share_shift; }
  TANDEM_HD constexpr int recv_floats() const { return cluster() * planes() * share(); }
};

/// Row of w at row `local` of a tile. Past the last one it repeats the last: a valid address whose product is not used.
TANDEM_HD constexpr int weight_row(const SkinnyPlan& p, int tile, int local) {
  const int outputs = p.tile_outputs();
  const bool up = local >= outputs;  // only when gated: the second half of the tile
  const int column = tile * outputs + local - (up ? outputs : 0);
  return (column < p.n ? column : p.n - 1) + (up ? p.n : 0);
}

struct UnitRange {
  int begin = 0;
  int end = 0;
};

/// The units of a block of the cluster.
TANDEM_HD constexpr UnitRange slice_units(const SkinnyPlan& p, int rank) {
  return {part_begin(p.units, p.cluster_shift, rank), part_begin(p.units, p.cluster_shift, rank + 1)};
}
/// The units of a chunk of that slice.
TANDEM_HD constexpr UnitRange chunk_range(const SkinnyPlan& p, const UnitRange& slice, int chunk) {
  const int begin = slice.begin + chunk * p.chunk_units;
  const int end = begin + p.chunk_units;
  return {begin < slice.end ? begin : slice.end, end < slice.end ? end : slice.end};
}
/// The units of one of the warps that split k.
TANDEM_HD constexpr UnitRange warp_units(const SkinnyPlan& p, const UnitRange& chunk, int wk) {
  const int length = chunk.end - chunk.begin;
  return {chunk.begin + part_begin(length, p.wk_shift, wk),
          chunk.begin + part_begin(length, p.wk_shift, wk + 1)};
}

/// The kernel of one row of x: units of k that a warp keeps in registers of each of its two weight rows, of several pairs
/// together.
inline constexpr int kRowUnits = 4;
/// Pairs of rows of codes that a warp can have, beside one: as many as fill its registers where a row has 1024 elements.
/// `elements`: of 16 bytes.
TANDEM_HD constexpr int row_sets(int elements) {
  return elements / 8;
}
inline constexpr int kRowMaxWarps = 16;
/// Of shared memory: the warps' statistics (two floats each), then two buffers of their two partial sums.
inline constexpr int kRowPartsBytes = kRowMaxWarps * 8 + 2 * kRowMaxWarps * 2 * 4;

/// Row in its tile of weight row `j` (0, 1) of the `pair`-th pair: neighbours, or a gate row and its up row.
TANDEM_HD constexpr int row_of_pair(const SkinnyPlan& p, int pair, int j) {
  return p.gated ? pair + j * p.tile_outputs() : 2 * pair + j;
}
/// Chunks (16 bytes of a row) that warp `warp` of `warps` reads when the block's threads take them in turn.
TANDEM_HD constexpr int chunks_of_warp(int chunks, int warps, int warp) {
  const int threads = warps * 32;
  const int rest = chunks % threads - warp * 32;
  return chunks / threads * 32 + (rest < 0 ? 0 : rest > 32 ? 32 : rest);
}

/// Weights of fewer bits than staged x: a lane's 16 bytes of weights multiply `pieces` 16-byte pieces of a row of x, each of
/// `piece` elements, and `lanes` lanes share a unit of k. Element `i` of the row lies at this element of the staged row: a
/// unit's first pieces of all lanes, then their second ones, so that lanes read neighbouring pieces.
TANDEM_HD constexpr int staged_at(int i, int lanes, int pieces, int piece) {
  if (pieces == 1) return i;
  const int in_unit = i % (lanes * pieces * piece);
  const int number = in_unit / piece;
  return i - in_unit + ((number % pieces) * lanes + number / pieces) * piece + i % piece;
}

/// Of TileEnds: a bias a weight row; for codes also its scale.
TANDEM_HD constexpr int tile_ends_bytes(int tile_rows, bool codes) {
  return round_up(4 * (codes ? 2 : 1) * tile_rows, 16);
}

/// Neighbours of a row of 4-bit weights that share a scale: a unit of k of an mma warp, and what four lanes load at a time.
inline constexpr int kScaleGroup = 128;

/// mma.sync m16n8k16 with 16-bit elements: rows of x are the m16 operand A, weight rows the n8 operand B. A product does not
/// care about the order of k as long as both operands agree, so a lane's 16-byte load (8 consecutive k of one row) becomes
/// its fragments of two mma steps as it is: the 4 lanes of a row cover a unit of 32 k. Weights are B because B's two
/// registers of a step are neighbours in the 16 bytes: no register is moved between the load and the product.
struct MmaMap {
  static constexpr int kLanes = 4;  ///< of a row: they share a unit
  static constexpr int kUnit = 32;  ///< of 16-bit weights; of others kLanes times the elements of 16 bytes
  TANDEM_HD static constexpr int group(int lane) {
    return lane >> 2;
  }  ///< row of A (and that + 8), column of B
  TANDEM_HD static constexpr int thread(int lane) { return lane & 3; }
  /// First k (in the unit) of the lane's 16 bytes.
  TANDEM_HD static constexpr int load_k(int lane, int elements = 8) { return elements * thread(lane); }
  /// Which of the four 32-bit words of the lane's 16 bytes is the fragment register of mma step `step` (0, 1) that holds k
  /// 2t, 2t+1 of the instruction (half 0) or k 2t+8, 2t+9 (half 1).
  TANDEM_HD static constexpr int word(int step, int half) { return 2 * step + half; }
  /// Staged row of x that is column `group` of the `tile`-th operand B, when `rows` are staged: past them the last one, for
  /// columns of the product that nobody reads.
  TANDEM_HD static constexpr int x_row(int lane, int tile, int rows) {
    const int row = 8 * tile + group(lane);
    const int last = rows - 1;
    return row < last ? row : last;
  }
  /// Row of A (of 16) and column of B (of 8) of accumulator register `i` (0..3).
  TANDEM_HD static constexpr int acc_row(int lane, int i) { return group(lane) + 8 * (i >> 1); }
  TANDEM_HD static constexpr int acc_column(int lane, int i) { return 2 * thread(lane) + (i & 1); }
};

/// Products on the diagonal: every group of four lanes multiplies its own 16 bytes of two weight rows (as rows `group` and
/// group + 8 of A) with its own x (as column `group` of B). The sums of those are where the group meets itself; the rest of the
/// tile is not used.
struct DiagonalMap {
  /// Does the lane hold its group's sums, and in which accumulator register the first row's? The second's is two further.
  TANDEM_HD static constexpr bool holds(int lane) { return MmaMap::thread(lane) == MmaMap::group(lane) / 2; }
  TANDEM_HD static constexpr int index(int lane) { return MmaMap::group(lane) & 1; }
};

/// Units of weights that an mma warp keeps in flight: 4 or 8 KiB.
TANDEM_HD constexpr int mma_depth(int rows) {
  return rows == 32 ? 4 : 8;
}

/// Blocks of an mma kernel that the registers of a multiprocessor must hold; `pieces`: of staged x, for 16 bytes of weights.
TANDEM_HD constexpr int mma_blocks(int rows, int batch, int pieces) {
  return rows * batch * pieces < 2048 ? 2 : 1;
}

/// Where value `i` of V (a power of two up to 32) ends up after the warp's transposing reduction: in every lane whose top
/// log2(V) bits, read from bit 4 down, spell i from its top bit down.
TANDEM_HD constexpr int reduced_value(int lane, int values) {
  int index = 0;
  for (int width = values, bit = 16; width > 1; width >>= 1, bit >>= 1)
    index = 2 * index + ((lane & bit) != 0 ? 1 : 0);
  return index;
}
/// Is this lane the one of its equals that writes?
TANDEM_HD constexpr bool reduced_writer(int lane, int values) {
  return (lane & (32 / values - 1)) == 0;
}

/// Is (value, id) the better candidate? Ties go to the lowest id, a NaN is never better.
TANDEM_HD constexpr bool better(float value, int id, float best_value, int best_id) {
  return value > best_value || (value == best_value && id < best_id);
}

}  // namespace tandem::kernels
