#include "kernels/tiled_gemm/tiled_kernel.cuh"

namespace tandem::kernels::tiled_gemm {

Kernel bf16_kernel(int cluster, bool gated) {
  return find_kernel<__nv_bfloat16>(cluster, gated);
}

}  // namespace tandem::kernels::tiled_gemm
