#include "kernels/skinny/skinny_dispatch.cuh"

namespace tandem::kernels {

SkinnyKernel find_kernel_bitmap(const SkinnyConfig& config, bool norm) {
  return find_sparse<BitmapFormat>(config, norm);
}

}  // namespace tandem::kernels
