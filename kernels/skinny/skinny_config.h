// How a skinny product is cut over the card: plain data, chosen by a table of rules, so tuning is a change of the table.
#pragma once

#include <cstdint>
#include <string>

#include "harness/base/tensor.h"
#include "kernels/skinny/skinny_shape.h"

namespace tandem::kernels {

/// Every block has this many warps.
inline constexpr int kSkinnyWarps = 8;
inline constexpr int kSkinnyThreads = 32 * kSkinnyWarps;

struct SkinnyConfig {
  enum class Kind : uint8_t {
    kDot,  ///< CUDA cores: a warp owns `rows` weight rows, lanes share k
    kMma,  ///< tensor cores: a warp owns `rows` weight rows as the m16 operand of mma.sync, activations are the n8 operand
  } kind = Kind::kDot;
  int rows = 1;     ///< weight rows of a warp: dot 1, 2; mma 8, 16, 32
  int batch = 1;    ///< rows of x a block takes: dot 1, 2, 4 (and 8 in fp32); mma 8, 16, 32, 64, at least m
  int warps_n = 8;  ///< warps along n: 1, 2, 4, 8; the other 8 / warps_n split k inside the block
  int cluster = 1;  ///< blocks that split k: 1, 2, 4, 8 (mma on sm_90; above 1 not for the head)
  int blocks_per_sm = 4;  ///< resident blocks the grid is sized for; more tiles than that are walked by the same blocks

  bool operator==(const SkinnyConfig&) const = default;
};

/// "dot r2 b1 wn8 c1 x4", for tables and messages.
std::string config_text(const SkinnyConfig& config);

/// The config for these sizes. `w_rows` is the number of weight rows (gated: 2n). `clusters`: the card has sm_90.
SkinnyConfig choose_skinny(DType dtype, int m, int w_rows, int k, bool clusters);
/// The same for the vocabulary head.
SkinnyConfig choose_head(DType dtype, int m, int vocab, int k);

/// Empty if the config can run these sizes, else the reason.
std::string config_problem(const SkinnyConfig& config, DType dtype, int m, int k, bool gated, bool head, bool clusters);

}  // namespace tandem::kernels
