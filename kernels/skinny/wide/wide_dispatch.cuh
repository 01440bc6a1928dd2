// The wide kernels of one format, by config; wide_plan.cc lists the same ones.
#pragma once

#include "kernels/skinny/skinny_kernels.h"
#include "kernels/skinny/wide/wide_kernel.cuh"

namespace tandem::kernels {

template <class Format, int kBatch>
WideKernel pick_wide(bool head) {
  // The head's weights are never of 4 bits, and all are stored; its norm is a kernel of its own.
  if constexpr (!Format::kGroupScales && !Format::kTwoOfFour && !Format::kBitmap && !Format::kStats) {
    if (head) return &skinny_wide_kernel<Format, kBatch, true>;
  }
  return head ? nullptr : &skinny_wide_kernel<Format, kBatch, false>;
}

template <class Format>
WideKernel find_wide(int batch, bool head) {
  switch (batch) {
    case 8:
      return pick_wide<Format, 8>(head);
    case 16:
      return pick_wide<Format, 16>(head);
    case 32:
      return pick_wide<Format, 32>(head);
    default:
      return pick_wide<Format, 64>(head);
  }
}

}  // namespace tandem::kernels
