// Index arithmetic of the wide products: weights are the 64-row operand of warpgroup products, x the narrow one.
// Shared by the kernel and by tests that walk it exhaustively on the CPU.
//
// Words: a tile is the set of weight rows a block works on at a time, 64 a warpgroup. k is cut into units of what 128 stored
// bytes of a weight row hold (the width of the copy engine's swizzle): 64 elements of 16 bits, 128 or 256 codes. The unit's x is
// one box of 128 bytes a row, or where x has more bits than the weights 2 or 4 boxes. The blocks of a cluster take consecutive
// slices of units. A stage holds one unit of a tile, and of x where x does not stay in shared memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "harness/base/host_device.h"
#include "kernels/skinny/skinny_map.h"

namespace tandem::kernels {

inline constexpr int kWideRowBytes = 128;
inline constexpr int kWideGroupRows = 64;  ///< weight rows of a warpgroup, 16 a warp
inline constexpr int kWideGroupThreads = 128;
inline constexpr int kWideMaxGroups = 2;
inline constexpr int kWideMaxStages = 24;
inline constexpr int kWideMaxCluster = 16;
/// Tiles begin at multiples of the swizzle's period.
inline constexpr int kWideAlignment = 1024;

/// Of its lowest set bit, the place.
TANDEM_HD inline int lowest_bit(int v) {
#if defined(__CUDA_ARCH__)
  return __ffs(v) - 1;
#else
  return __builtin_ctz(static_cast<unsigned>(v));
#endif
}

/// Everything about the cut that the kernel needs; made by plan_wide.
struct WidePlan {
  int m = 0;
  int n = 0;  ///< outputs of a row; gated: half the weight rows
  int k = 0;
  bool gated = false;

  int batch = 8;   ///< rows of x that a product covers, at least m; those past m are zero
  int groups = 1;  ///< warpgroups
  int tiles = 0;
  int cluster_shift = 0;   ///< log2 of the blocks that split k
  bool bulk_sums = false;  ///< partial sums leave as blocks, not one by one
  int unit = 64;           ///< elements of k
  int x_boxes = 1;         ///< of a unit
  int units = 0;           ///< ceil(k / unit)
  int stages = 0;
  int stage_bytes = 0;  ///< weights of a unit, and x unless it is resident
  bool weights_staged =
      true;  ///< else a stage is x alone, which is sorted before it is multiplied (wide_bitmap.cuh)
  bool resident = false;  ///< x stays in shared memory for the block's later tiles
  int share_shift = 0;    ///< log2 of the rows of x that one block of the cluster finishes
  int ld = 0;             ///< floats between rows of x in the partial sums; 4 modulo 16: stores hit all banks

  // Byte offsets from the first multiple of 1024 in dynamic shared memory; the stages start at 0.
  int x_offset = 0;  ///< resident x: [units of the slice][batch][128 bytes]
  int sums_offset =
      0;  ///< float [cluster][planes][share][ld]: what is to be finished here; may lie over the stages
  int own_offset = 0;  ///< of the consumers' warps, of each own_bytes: metadata of 2:4, the ring of a bitmap
  int own_bytes = 0;
  int bias_offset = 0;     ///< float [tile rows]: gate, then up; then the rows' scales, if they have any, or
                           ///< the further ends of a norm by statistics (WideEnd)
  int barrier_offset = 0;  ///< uint64_t [2 stages + 1]
  int shared_bytes = 0;    ///< with room to begin at a multiple of 1024

  int grid = 0;
  int stats_offset =
      0;  ///< with statistics float [2][share][2]: mean and 1 / deviation, of x, then of the residual

  TANDEM_HD constexpr int tile_rows() const { return kWideGroupRows * groups; }
  TANDEM_HD constexpr int planes() const { return gated ? 2 : 1; }
  /// Output columns of a tile.
  TANDEM_HD constexpr int tile_outputs() const { return gated ? tile_rows() / 2 : tile_rows(); }
  TANDEM_HD constexpr int cluster() const { return 1 << cluster_shift; }
  TANDEM_HD constexpr int share() const { return 1 << share_shift; }
  TANDEM_HD constexpr int threads() const { return groups * kWideGroupThreads + 32; }
  TANDEM_HD constexpr int weight_bytes() const {
    return weights_staged ? tile_rows() * kWideRowBytes : 0;
  }                                                                            ///< of a stage
  TANDEM_HD constexpr int box_bytes() const { return batch * kWideRowBytes; }  ///< of x
  TANDEM_HD constexpr int x_bytes() const { return x_boxes * box_bytes(); }    ///< of a unit
  TANDEM_HD constexpr int plane_floats() const { return share() * ld; }
  TANDEM_HD constexpr int source_floats() const { return planes() * plane_floats(); }
  TANDEM_HD constexpr int sums_floats() const { return cluster() * source_floats(); }
};

/// The units of a block of the cluster.
TANDEM_HD constexpr UnitRange wide_slice(const WidePlan& p, int rank) {
  return {part_begin(p.units, p.cluster_shift, rank), part_begin(p.units, p.cluster_shift, rank + 1)};
}

/// Column of the tile and plane (0 gate or the only one, 1 up) of the accumulators of a lane: half 0 is weight row g of the
/// warp's 16, half 1 row g + 8. Gated tiles interleave 8 gate rows with their 8 up rows, so that a lane has both.
struct WideOutput {
  int column;
  int plane;
};
TANDEM_HD constexpr WideOutput wide_output(bool gated, int warp, int lane, int half) {
  const int g = lane >> 2;
  return gated ? WideOutput{8 * warp + g, half} : WideOutput{16 * warp + g + 8 * half, 0};
}
/// Row of x of accumulator `i` (0, 1 and again 2, 3) of column group `j`.
TANDEM_HD constexpr int wide_batch_row(int lane, int j, int i) {
  return 8 * j + 2 * (lane & 3) + (i & 1);
}
/// Row of w that row `local` of a tile holds. In a gated product the copy engine picks them by a map of [n / 8][2][8] rows.
TANDEM_HD constexpr int wide_weight_row(const WidePlan& p, int tile, int local) {
  if (!p.gated) return tile * p.tile_rows() + local;
  const int eight = tile * (p.tile_outputs() / 8) + local / 16;
  return 8 * eight + local % 8 + (local % 16 >= 8 ? p.n : 0);
}

/// With statistics, what the finish reads of each row of a tile, floats [tile rows] each.
enum WideEnd : uint8_t {
  kEndBias,
  kEndGammaSum,
  kEndScaledGamma,
  kEndResidualGamma,
  kEndResidualBeta,
  kWideEnds
};

/// Rows of x that block `rank` of the cluster finishes.
TANDEM_HD constexpr int wide_owned_rows(const WidePlan& p, int rank) {
  const int left = p.m - (rank << p.share_shift);
  return left < 0 ? 0 : left < p.share() ? left : p.share();
}
/// Float in the owner's partial sums, of block `source`, of row b of x.
TANDEM_HD constexpr int wide_sum_at(const WidePlan& p, int source, int plane, int b, int column) {
  return source * p.source_floats() + plane * p.plane_floats() + (b & (p.share() - 1)) * p.ld + column;
}
/// With bulk_sums, the float over the stages from which that sum leaves: the owner's rows are neighbours.
TANDEM_HD constexpr int wide_leaving_at(const WidePlan& p, int plane, int b, int column) {
  return (plane * p.batch + b) * p.ld + column;
}

/// The four neighbouring columns that a thread finishes, in every row that is its turn.
struct WideColumns {
  int local;   // first one in the tile
  int column;  // first one of y
  int valid;   // columns inside y: 4, or fewer at its end, or none
  int row;     // first row of x, of those that the block finishes
  int step;    // rows
  int lead;    // rows from that of the warp's first lane
};
TANDEM_HD inline WideColumns wide_columns(const WidePlan& p, int tile, int tid) {
  const int quads = p.tile_outputs() / 4;  // a power of two
  const int shift = lowest_bit(quads);
  const int local = 4 * (tid & (quads - 1));
  const int column = tile * p.tile_outputs() + local;
  return {.local = local,
          .column = column,
          .valid = std::min(4, p.n - column),
          .row = tid >> shift,
          .step = p.groups * kWideGroupThreads >> shift,
          .lead = (tid & 31) >> shift};
}

/// Bytes of partial sums that block `slice` of those that split k receives.
TANDEM_HD constexpr int wide_pushed_bytes(const WidePlan& p, int slice) {
  const int row_floats = p.bulk_sums ? p.ld : p.tile_outputs();
  return 4 * p.cluster() * p.planes() * wide_owned_rows(p, slice) * row_floats;
}

// Weights of codes that are unpacked into registers: a step is a product of 16 k (m64nNk16). In it a lane has, of weight row
// lane / 4 of its warp's 16 and of that + 8, the k 2t, 2t + 1, 2t + 8 and 2t + 9, where t is lane % 4.

/// Byte, of the 128 of a weight row's unit, of the first of the lane's 8-bit codes of step `step`, half 0 (k 2t) or 1 (k 2t + 8).
TANDEM_HD constexpr int wide_pair_of_bytes(int lane, int step, int half) {
  return 16 * step + 8 * half + 2 * (lane & 3);
}
/// Of the byte with both 4-bit codes.
TANDEM_HD constexpr int wide_pair_of_nibbles(int lane, int step, int half) {
  return 8 * step + 4 * half + (lane & 3);
}
/// Where the copy engine puts byte `byte` of row `row` of a box.
TANDEM_HD constexpr int wide_swizzled(int row, int byte) {
  return row * kWideRowBytes + (byte ^ (row & 7) << 4);
}

/// Group scales travel in registers: of each weight row, a lane loads those of kWideLaneGroups neighbouring groups, its four
/// lanes those of kWideScaleUnits units of 256 k.
inline constexpr int kWideLaneGroups = 4;
inline constexpr int kWideScaleUnits = 8;
/// First group, from the first one of the batch of units, that the lane loads.
TANDEM_HD constexpr int wide_lane_group(int lane) {
  return kWideLaneGroups * (lane & 3);
}
/// Which lane, of the four of a row, has the two groups of unit `unit` (of the batch), and in which of its two words.
TANDEM_HD constexpr int wide_scale_lane(int unit) {
  return (unit & (kWideScaleUnits - 1)) >> 1;
}
TANDEM_HD constexpr int wide_scale_word(int unit) {
  return unit & 1;
}

// 2:4: a unit is four products of 32 k. A warp copies the metadata of its 16 weight rows for kWideMetadataUnits units at a time, 128
// bytes a row, into one of two buffers of its own, in 16-byte pieces that are a row's metadata of a unit.
inline constexpr int kWideMetadataUnits = 8;
inline constexpr int kWideMetadataBytes = 2 * kWideGroupRows / 4 * kWideRowBytes;  ///< of a warp

/// Where in its buffer a row's piece of unit `unit` of these lies: rows are read eight at a time, from different banks.
TANDEM_HD constexpr int wide_metadata_piece(int row, int unit) {
  return wide_swizzled(row, 16 * unit);
}
/// Of the four products of a unit, the two of half 0 or 1 take their metadata from threads 0 and 1 and from threads 2 and 3 of each
/// four: a thread has the 16 k that its number says. Byte of these in the row's piece.
TANDEM_HD constexpr int wide_metadata_byte(int thread, int half) {
  return 8 * half + 2 * thread;
}

// A bitmap: a lane expands four neighbours of k at a time, where a product of 16 k wants of it two pairs that are eight apart. So x
// is sorted, 16 k at a time: of its eight pairs the even ones come first.

/// Which pair of 16 k of x is the `place`-th after that.
TANDEM_HD constexpr int wide_sorted_pair(int place) {
  return place < 4 ? 2 * place : 2 * (place - 4) + 1;
}

/// A candidate of the arg-max as a number whose order is that of better(): the larger number is the better candidate.
/// Never 0, which stands for no candidate; not for NaN.
TANDEM_HD inline uint64_t candidate_key(float value, int id) {
  value += 0.0f;  // -0 becomes +0: they are equal
  uint32_t bits = 0;
  memcpy(&bits, &value, sizeof(bits));
  const uint32_t ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}
TANDEM_HD inline float key_value(uint64_t key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  const uint32_t bits = (ordered & 0x80000000u) != 0 ? ordered & 0x7fffffffu : ~ordered;
  float value = 0;
  memcpy(&value, &bits, sizeof(value));
  return value;
}
TANDEM_HD constexpr int key_id(uint64_t key) {
  return static_cast<int>(0xffffffffu - static_cast<uint32_t>(key));
}

}  // namespace tandem::kernels
