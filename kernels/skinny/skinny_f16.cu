#include "kernels/skinny/skinny_dispatch.cuh"

namespace tandem::kernels {

SkinnyKernel find_kernel_f16(const SkinnyConfig& config, bool head, bool norm) {
  return find_kernel<__half>(config, head, norm);
}

}  // namespace tandem::kernels
