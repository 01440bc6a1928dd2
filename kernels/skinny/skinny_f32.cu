#include "kernels/skinny/skinny_dispatch.cuh"

namespace tandem::kernels {

SkinnyKernel find_kernel_f32(const SkinnyConfig& config, bool head, bool norm) {
  return find_kernel<float>(config, head, norm);
}

}  // namespace tandem::kernels
