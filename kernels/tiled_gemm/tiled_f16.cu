#include "kernels/tiled_gemm/tiled_kernel.cuh"

namespace tandem::kernels::tiled_gemm {

Kernel f16_kernel(bool gated) {
  return gated ? tiled_gemm_kernel<__half, true> : tiled_gemm_kernel<__half, false>;
}

}  // namespace tandem::kernels::tiled_gemm
