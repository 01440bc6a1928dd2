#include "kernels/skinny/wide/wide_dispatch.cuh"

namespace tandem::kernels {

WideKernel find_wide_w4a16(int batch, bool head) {
  return find_wide<WideW4A16>(batch, head);
}

}  // namespace tandem::kernels
