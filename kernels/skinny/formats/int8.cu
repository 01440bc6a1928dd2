#include "kernels/skinny/skinny_dispatch.cuh"

namespace tandem::kernels {

SkinnyKernel find_kernel_int8(const SkinnyConfig& config, bool head, bool norm) {
  return find_format<Int8Format>(config, head, norm);
}

}  // namespace tandem::kernels
