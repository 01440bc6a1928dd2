// What a skinny kernel gets: the cut, the pointers, and the choices of prologue and epilogue.
#pragma once

#include <cstdint>

#include "kernels/skinny/skinny_map.h"
#include "kernels/skinny/skinny_shape.h"

namespace tandem::kernels {

enum class SkinnyPrologue : uint8_t { kRaw, kLayerNorm, kRmsNorm };

/// Blocks whose candidates the head's workspace can hold.
inline constexpr int kHeadMaxBlocks = 1024;
/// The head's workspace begins with the arrival counter on a line of its own, then a key for each row of x.
inline constexpr int kHeadKeysAt = 256;
inline constexpr int kHeadHeaderBytes = kHeadKeysAt + 8 * kSkinnyMaxRows;

struct HeadArgs {
  int32_t* next_ids;    // [m]
  int32_t* tokens_out;  // [m, tokens_stride] or null
  int64_t tokens_stride;
  int32_t* position;         // [1] or null
  int32_t* finished;         // [m] or null
  int32_t* running;          // [1] or null
  float* best_logits;        // [m] or null
  float* logits;             // [m, n] or null
  uint32_t* arrivals;        // [1], zero between launches
  unsigned long long* keys;  // [m], zero between launches
  float* part_values;        // [grid_x, m]
  int32_t* part_ids;         // [grid_x, m]
  float scale;
  int32_t eos_id;
  int32_t pad_id;
  int32_t id_offset;
  bool stop_at_eos;
};

/// Statistics that a product takes (SkinnyParams::x_stats, residual_stats).
struct TakenStats {
  const float* pairs = nullptr;  // float2 [blocks, m], or null
  int blocks = 0;                // of kStatsColumns columns
  float inverse = 0.0f;          // 1 / blocks
  float eps = 0.0f;
};
/// A norm by statistics, of wide kernels alone.
struct StatsArgs {
  void* scaled_out = nullptr;          // [m, n] T, or null
  const void* scaled_gamma = nullptr;  // [n] T
  float* stats_out = nullptr;          // float2 [n / kStatsColumns, m]
  bool centred = false;                // of a layer norm
  TakenStats x;
  const float* norm_sums = nullptr;  // [2, n or 2n], or null
  TakenStats residual;
  const void* residual_gamma = nullptr;  // [n] T
  const void* residual_beta = nullptr;   // [n] T, or null
};

struct SkinnyArgs {
  SkinnyPlan plan;
  const void* x;         // [m, k] T or float
  const void* w;         // [n or 2n, k] T, or codes
  const void* bias;      // [n or 2n] T, or null
  const void* residual;  // [m, n] T or float, or null
  const void* gamma;     // [k] T
  const void* beta;      // [k] T, or null
  void* y;               // [m, n] T or float
  void* norm_out;        // [m, k] T, or null
  int64_t ldx;
  int64_t ldy;
  int64_t ld_residual;
  float eps;
  SkinnyPrologue prologue;
  const float* norm_sums;  // with a layer norm: [2, n or 2n], w gamma, then w beta; or null
  bool x_float;
  bool residual_float;
  bool y_float;
  int activation;  // -1: none, else the value of tandem::Activation
  HeadArgs head;
  // Of quantised weights.
  const void* scales;     // float [n or 2n]; kI4: bf16 [n or 2n, groups of k]
  const float* x_scales;  // [m], when x is codes
  // Of weights of which only some are stored.
  const void* metadata;        // 2:4: two bits a stored value
  const uint32_t* bitmap;      // [n or 2n, words of a row]
  const uint32_t* row_starts;  // [n or 2n]: where a row's kept values begin, in 16 bytes from w on
};

}  // namespace tandem::kernels
