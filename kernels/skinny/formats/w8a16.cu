#include "kernels/skinny/skinny_dispatch.cuh"

namespace tandem::kernels {

SkinnyKernel find_kernel_w8a16(const SkinnyConfig& config, bool head, bool norm) {
  return find_format<W8A16Format>(config, head, norm);
}

}  // namespace tandem::kernels
