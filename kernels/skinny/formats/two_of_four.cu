#include "kernels/skinny/skinny_dispatch.cuh"

namespace tandem::kernels {

SkinnyKernel find_kernel_two_of_four(const SkinnyConfig& config, bool norm) {
  return find_sparse<TwoOfFourFormat>(config, norm);
}

}  // namespace tandem::kernels
