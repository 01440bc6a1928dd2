// Where things lie in the memory that a rank opens to its peers, and which rows a block of a rank works on. The same on all
// ranks, on the host and on the device.
#pragma once

#include <cstdint>

#include "harness/base/host_device.h"

namespace tandem::kernels {

inline constexpr int kMaxPeers = 8;
inline constexpr int kMaxPeerBlocks = 1024;  ///< of a grid: each has flags of its own
inline constexpr int kPiece = 16;            ///< bytes that a thread handles at once

/// What a rank's own kernels keep at the start of its arena.
struct PeerState {
  uint32_t generation;  ///< of the next collective, from 1: never the 0 that a fresh arena has everywhere
  uint32_t lost;  ///< 0, or 1 + the rank that did not come: from then on no kernel waits, sends or writes
  uint32_t unused[30];
  uint32_t arrived;  ///< blocks of the running collective that know its generation; on a line of its own
  uint32_t unused_too;
  unsigned long long waited;  ///< cycles that kernels have waited for other ranks, see WaitMeter
};

/// An arena: [state][flags][lines][staging][gathered].
///
/// **lines** take one-shot messages: for each of two generations in turn and each rank, so many pieces of 16 bytes, each spread
/// over two lines of 16 bytes in which every second word is the generation: a message is its own flag. Two slots suffice: who
/// sends generation g + 2 has received g + 1 from everyone, which nobody sends before it has read all of g.
/// **flags**, **staging** and **gathered** take two-shot messages. staging: rows to be summed here, by source. gathered: rows
/// summed elsewhere. One slot suffices: who sends generation g + 1 has received all sums of g, which are sent after staging was
/// read; and sums of g + 1 are sent to a rank only after its rows of g + 1 have come, so after it has read all of g.
struct PeerLayout {
  int ranks = 1;
  int64_t oneshot_bytes = 0;  ///< largest one-shot message, a multiple of kPiece
  int64_t twoshot_bytes = 0;  ///< largest two-shot message, a multiple of kPiece

  static constexpr int64_t kFlagsOffset = 256;
  static constexpr int kPhases = 2;

  TANDEM_HD constexpr int64_t flag_offset(int phase, int source, int block) const {
    return kFlagsOffset + 4 * ((static_cast<int64_t>(phase) * kMaxPeers + source) * kMaxPeerBlocks + block);
  }
  TANDEM_HD constexpr int64_t lines_offset() const { return flag_offset(kPhases, 0, 0); }
  /// Line 0 or 1 of a piece of a row of `pieces`. The first lines of a row lie together, so that neighbours in a warp do.
  TANDEM_HD constexpr int64_t line_offset(uint32_t generation, int source, int64_t row, int pieces, int place,
                                          int line) const {
    return slot_offset(generation, source) + ((2 * row + line) * pieces + place) * kPiece;
  }
  TANDEM_HD constexpr int64_t slot_offset(uint32_t generation, int source) const {
    return lines_offset() + (static_cast<int64_t>(generation & 1) * ranks + source) * slot_bytes();
  }
  /// Of one generation and source: two lines a piece, and the last row may be a part only.
  TANDEM_HD constexpr int64_t slot_bytes() const { return 2 * (oneshot_bytes + kMaxRowBytes); }

  TANDEM_HD constexpr int64_t staging_offset() const { return lines_offset() + 2 * ranks * slot_bytes(); }
  /// Row `group` of those that `source` gave this rank to sum.
  TANDEM_HD constexpr int64_t staged_row(int source, int64_t group, int64_t groups, int64_t row_bytes) const {
    return staging_offset() + (source * groups + group) * row_bytes;
  }
  TANDEM_HD constexpr int64_t gathered_offset() const {
    return staging_offset() + twoshot_bytes + ranks * kMaxRowBytes;
  }
  TANDEM_HD constexpr int64_t gathered_row(int64_t row, int64_t row_bytes) const {
    return gathered_offset() + row * row_bytes;
  }
  TANDEM_HD constexpr int64_t arena_bytes() const { return gathered_offset() + twoshot_bytes + kMaxRowBytes; }

  static constexpr int kMaxRowPieces = 512;  ///< one a thread of the largest block
  static constexpr int64_t kMaxRowBytes = int64_t{kMaxRowPieces} * kPiece;
};

/// The generation after g. 0 is what a fresh arena has everywhere, and neighbours differ in their last bit, which picks a slot.
TANDEM_HD constexpr uint32_t next_generation(uint32_t g) {
  return g + 1 == 0 ? 2 : g + 1;
}

/// A plain message is cut into rows of so many pieces, the last of which may be a part: short ones where few would leave
/// multiprocessors idle.
TANDEM_HD constexpr int plain_row_pieces(int64_t pieces) {
  return pieces >= int64_t{1} << 18 ? PeerLayout::kMaxRowPieces : 128;
}

/// Two-shot rows: `ranks` neighbours are a group, one for each rank to sum. A block works on groups block, block + grid, ...
/// from the first to the last phase, so that it waits for that block of the other ranks only.
struct RowGroups {
  int64_t rows = 0;
  int ranks = 1;

  TANDEM_HD constexpr int64_t groups() const { return ceil_div(rows, static_cast<int64_t>(ranks)); }
  TANDEM_HD constexpr int64_t row(int64_t group, int owner) const { return group * ranks + owner; }
  TANDEM_HD constexpr bool has(int64_t group, int owner) const { return row(group, owner) < rows; }
};

}  // namespace tandem::kernels
