// The wide kernels of one element type, by config; wide_plan.cc lists the same ones.
#pragma once

#include "kernels/skinny/skinny_kernels.h"
#include "kernels/skinny/wide/wide_kernel.cuh"

namespace tandem::kernels {

template <typename T, int kBatch>
WideKernel pick_wide(bool head) {
  return head ? &skinny_wide_kernel<T, kBatch, true> : &skinny_wide_kernel<T, kBatch, false>;
}

template <typename T>
WideKernel find_wide(int batch, bool head) {
  switch (batch) {
    case 8:
      return pick_wide<T, 8>(head);
    case 16:
      return pick_wide<T, 16>(head);
    case 32:
      return pick_wide<T, 32>(head);
    default:
      return pick_wide<T, 64>(head);
  }
}

}  // namespace tandem::kernels
