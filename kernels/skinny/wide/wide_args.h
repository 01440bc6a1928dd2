// What a wide kernel gets besides its two tensor maps.
#pragma once

#include <cstdint>

#include "kernels/skinny/args.h"
#include "kernels/skinny/wide/wide_map.h"

namespace tandem::kernels {

struct WideArgs {
  WidePlan plan;
  const void* bias;      // [n or 2n] T, or null
  const void* residual;  // [m, n] T or float, or null
  void* y;               // [m, n] T or float
  int64_t ldy;
  int64_t ld_residual;
  bool residual_float;
  bool y_float;
  bool vector;     // four neighbouring columns of y, and of residual, lie on a multiple of their size
  int activation;  // -1: none, else the value of tandem::Activation
  HeadArgs head;
  // Of weights of codes.
  const void* scales;     // float [n or 2n]; kI4: bf16 [n or 2n, groups]
  const float* x_scales;  // [m], when x is codes
  int groups;             // of k, with a scale a group
  const void* metadata;   // of 2:4 [n or 2n, k / 8 bytes]
  // With a bitmap, as SkinnyArgs has them.
  const void* w;
  const uint32_t* bitmap;
  const uint32_t* row_starts;
  StatsArgs stats;
};

}  // namespace tandem::kernels
