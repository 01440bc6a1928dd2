// What a block keeps in shared memory from its start to the end of its tiles, beside x and the weights.
#pragma once

#include <cstdint>

#include "kernels/skinny/formats/row_quantiser.h"
#include "kernels/skinny/skinny_map.h"
#include "kernels/skinny/skinny_shape.h"

namespace tandem::kernels {

/// From plan.bias_offset on; with weights as they are, bias alone.
struct TileEnds {
  float* bias;         // [tile rows]
  float* row_scales;   // [tile rows], of weights of codes
  float* x_scales;     // [kSkinnyMaxRows], of x that is quantised
  uint32_t* y_max;     // [kSkinnyMaxRows], bits of magnitudes
  float4* quantisers;  // [kSkinnyMaxRows]: how x is divided by its scales, then alone

  __device__ TileEnds(const SkinnyPlan& p, unsigned char* shared)
      : bias(reinterpret_cast<float*>(shared + p.bias_offset)),
        row_scales(bias + p.tile_rows()),
        x_scales(row_scales + p.tile_rows()),
        y_max(reinterpret_cast<uint32_t*>(x_scales + kSkinnyMaxRows)),
        quantisers(reinterpret_cast<float4*>(y_max + kSkinnyMaxRows)) {}

  __device__ void keep(int row, const RowQuantiser& q) const {
    x_scales[row] = q.scale;
    quantisers[row] = make_float4(q.up, q.divisor, q.inverse, float_of_bits(q.keep));
  }
  /// All of it but the scale.
  __device__ RowQuantiser quantiser(int row) const {
    const float4 q = quantisers[row];
    return {.scale = 0.0f, .up = q.x, .divisor = q.y, .inverse = q.z, .keep = bits_of_float(q.w)};
  }
};

}  // namespace tandem::kernels
