#include "kernels/tiled_gemm/tiled_kernel.cuh"

namespace tandem::kernels::tiled_gemm {

Kernel f16_kernel(int cluster) {
  return cluster == 1 ? tiled_gemm_kernel<__half, 1> : tiled_gemm_kernel<__half, 2>;
}

}  // namespace tandem::kernels::tiled_gemm
