#include "kernels/skinny/skinny_dispatch.cuh"

namespace tandem::kernels {

SkinnyKernel find_kernel_bf16(const SkinnyConfig& config, bool head, bool norm) {
  return find_kernel<__nv_bfloat16>(config, head, norm);
}

}  // namespace tandem::kernels
