#include "kernels/skinny/wide/wide_dispatch.cuh"

namespace tandem::kernels {

WideKernel find_wide_bf16(int batch, bool head) {
  return find_wide<WidePlain<__nv_bfloat16>>(batch, head);
}

}  // namespace tandem::kernels
