#include "kernels/tiled_gemm/tiled_kernel.cuh"

namespace tandem::kernels::tiled_gemm {

Kernel bf16_kernel(int cluster) {
  return cluster == 1 ? tiled_gemm_kernel<__nv_bfloat16, 1> : tiled_gemm_kernel<__nv_bfloat16, 2>;
}

}  // namespace tandem::kernels::tiled_gemm
