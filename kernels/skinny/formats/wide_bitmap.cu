#include "kernels/skinny/wide/wide_dispatch.cuh"

namespace tandem::kernels {

WideKernel find_wide_bitmap(int batch) {
  return batch == 8 ? pick_wide<WideBitmap, 8>(false) : pick_wide<WideBitmap, 16>(false);
}

}  // namespace tandem::kernels
