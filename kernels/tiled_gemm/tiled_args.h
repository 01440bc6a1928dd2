// What a tiled kernel gets besides its tensor maps, and what makes it. Internal to this folder.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/tiled_gemm/tiled_map.h"

namespace tandem::kernels::tiled_gemm {

struct Args {
  Plan plan;
  int activation = -1;  ///< -1: none, else the value of tandem::Activation
  const void* bias = nullptr;
  const void* residual = nullptr;
  int64_t ld_residual = 0;
  void* y = nullptr;
  int64_t ldy = 0;
};

/// Boxes of kBoxRows rows of x and of w, of kTileDepth columns.
using Kernel = void (*)(CUtensorMap x, CUtensorMap w, Args args);
Kernel bf16_kernel(bool gated);
Kernel f16_kernel(bool gated);

}  // namespace tandem::kernels::tiled_gemm
