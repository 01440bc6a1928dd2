// How a skinny product is cut over the card: plain data.
#pragma once

#include <cstdint>
#include <string>

namespace tandem::kernels {

/// Every block has this many warps, but for kRow and kWide.
inline constexpr int kSkinnyWarps = 8;
inline constexpr int kSkinnyThreads = 32 * kSkinnyWarps;

struct SkinnyConfig {
  enum class Kind : uint8_t {
    kDot,   ///< CUDA cores: the lanes of a warp share k
    kMma,   ///< tensor cores: weight rows are the n8 operand of mma.sync, rows of x the m16 operand
    kRow,   ///< CUDA cores, one row of x, 16-bit types: a warp holds its part of its weight rows in registers
    kWide,  ///< sm_90a, not f32: weight rows are the m64 operand of wgmma, rows of x the n8 to n64 operand
  } kind = Kind::kDot;
  int rows = 1;   ///< weight rows of a warp: dot 1, 2; mma 8, 16, 32; row 2, of codes also 4 or 8; wide 16
  int batch = 1;  ///< rows of x of a block: dot 1, 2, 4, 8; mma and wide 8, 16, 32, 64
  int warps_n =
      8;  ///< warps along n: 1, 2, 4, 8; the other warps / warps_n split k inside the block; wide: 4, 8
  int cluster =
      1;  ///< blocks that split k: 1, 2, 4, 8, wide 16; above 1: mma and wide, sm_90, not for the head
  int blocks_per_sm =
      4;  ///< blocks the grid is sized for; more tiles than blocks are walked by the same blocks
  int warps = kSkinnyWarps;  ///< of a block; kRow: 4, 8 or 16, of which warps / warps_n share a weight row

  bool operator==(const SkinnyConfig&) const = default;
};

/// "dot r2 b1 wn8 c1 x4", for tables and messages.
std::string config_text(const SkinnyConfig& config);

}  // namespace tandem::kernels
