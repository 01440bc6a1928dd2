#include "kernels/tiled_gemm/tiled_kernel.cuh"

namespace tandem::kernels::tiled_gemm {

Kernel bf16_kernel(bool gated) {
  return gated ? tiled_gemm_kernel<__nv_bfloat16, true> : tiled_gemm_kernel<__nv_bfloat16, false>;
}

}  // namespace tandem::kernels::tiled_gemm
