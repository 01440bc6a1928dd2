#include "kernels/tiled_gemm/tiled_kernel.cuh"

namespace tandem::kernels::tiled_gemm {

Kernel bf16_kernel(Form form, int cluster, bool gated) {
  return find_kernel<__nv_bfloat16>(form, cluster, gated);
}

}  // namespace tandem::kernels::tiled_gemm
