// What a tiled kernel gets besides its tensor maps, and what makes it. Internal to this folder.
#pragma once

#include <cuda.h>

#include "kernels/tiled_gemm/tiled_map.h"

namespace tandem::kernels::tiled_gemm {

struct Args {
  Plan plan;
  int activation = -1;  ///< -1: none, else the value of tandem::Activation
  const void* bias = nullptr;
};

/// Boxes of kTileRows rows of x, kBoxRows of w and kWarpRows of y, all of 64 columns.
using Kernel = void (*)(CUtensorMap x, CUtensorMap w, CUtensorMap y, Args args);
Kernel bf16_kernel(int cluster);
Kernel f16_kernel(int cluster);

}  // namespace tandem::kernels::tiled_gemm
