// What a tiled kernel gets besides its tensor maps, and what makes it. Internal to this folder.
#pragma once

#include <cuda.h>

#include "kernels/tiled_gemm/tiled_map.h"

namespace tandem::kernels::tiled_gemm {

struct Args {
  Plan plan;
  int activation = -1;  ///< -1: none, else the value of tandem::Activation
  bool has_residual = false;
  const void* bias = nullptr;
};

/// Boxes of kTileRows rows of x, kBoxRows of w and kWarpRows of y and of the residual, all of 64 columns.
using Kernel = void (*)(CUtensorMap x, CUtensorMap w, CUtensorMap y, CUtensorMap residual, Args args);
Kernel bf16_kernel(int cluster, bool gated);
Kernel f16_kernel(int cluster, bool gated);

}  // namespace tandem::kernels::tiled_gemm
