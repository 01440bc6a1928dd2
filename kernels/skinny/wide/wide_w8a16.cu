#include "kernels/skinny/wide/wide_dispatch.cuh"

namespace tandem::kernels {

WideKernel find_wide_w8a16(int batch, bool head) {
  return find_wide<WideW8A16>(batch, head);
}

}  // namespace tandem::kernels
