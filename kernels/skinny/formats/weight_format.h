// How the formats of stored weights lie in memory, and which staged x they are multiplied with. Plain C++: the cut of a product
// and its tests use it without a card.
#pragma once

#include "harness/base/tensor.h"
#include "kernels/skinny/choose/skinny_plan.h"

namespace tandem::kernels {

struct WeightFormat {
  int bits;           ///< of a stored element; of weights of which only some are stored, of each of all
  int x_bytes;        ///< of an element of staged x
  bool row_scales;    ///< one fp32 scale a weight row
  bool group_scales;  ///< one bf16 scale for kScaleGroup neighbours of a weight row
  SparseWeights sparse = SparseWeights::kNone;

  constexpr bool plain() const { return !row_scales && !group_scales && sparse == SparseWeights::kNone; }
  /// Elements of the 16 bytes that a lane loads at a time.
  constexpr int elements() const { return 128 / bits; }
  /// 16-byte pieces of staged x that those multiply.
  constexpr int pieces() const { return elements() * x_bytes / 16; }
};

constexpr WeightFormat weight_format(const SkinnyProblem& p) {
  const int x_bytes = static_cast<int>(dtype_bytes(p.dtype));
  if (p.sparse != SparseWeights::kNone) {
    return {.bits = 8, .x_bytes = 2, .row_scales = false, .group_scales = false, .sparse = p.sparse};
  }
  switch (p.weights()) {
    case DType::kI4:
      return {.bits = 4, .x_bytes = 2, .row_scales = false, .group_scales = true};
    case DType::kF8:  // e4m3 x e4m3, each as a half
      return {.bits = 8, .x_bytes = 2, .row_scales = true, .group_scales = false};
    case DType::kI8:
      return {.bits = 8, .x_bytes = p.input_dtype ? 1 : 2, .row_scales = true, .group_scales = false};
    default:
      return {.bits = 8 * x_bytes, .x_bytes = x_bytes, .row_scales = false, .group_scales = false};
  }
}

}  // namespace tandem::kernels
