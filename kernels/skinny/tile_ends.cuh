// What a block keeps in shared memory from its start to the end of its tiles, beside x and the weights.
#pragma once

#include "kernels/skinny/skinny_map.h"

namespace tandem::kernels {

/// From plan.bias_offset on; with weights as they are, bias alone.
struct TileEnds {
  float* bias;        // [tile rows]
  float* row_scales;  // [tile rows], of weights of codes

  __device__ TileEnds(const SkinnyPlan& p, unsigned char* shared)
      : bias(reinterpret_cast<float*>(shared + p.bias_offset)), row_scales(bias + p.tile_rows()) {}
};

}  // namespace tandem::kernels
