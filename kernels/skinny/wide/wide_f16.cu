#include "kernels/skinny/wide/wide_dispatch.cuh"

namespace tandem::kernels {

WideKernel find_wide_f16(int batch, bool head) {
  return find_wide<WidePlain<__half>>(batch, head);
}

}  // namespace tandem::kernels
