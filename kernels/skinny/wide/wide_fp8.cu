#include "kernels/skinny/wide/wide_dispatch.cuh"

namespace tandem::kernels {

WideKernel find_wide_fp8(int batch, bool head) {
  return find_wide<WideFp8>(batch, head);
}

}  // namespace tandem::kernels
