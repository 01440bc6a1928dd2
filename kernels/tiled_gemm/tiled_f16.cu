#include "kernels/tiled_gemm/tiled_kernel.cuh"

namespace tandem::kernels::tiled_gemm {

Kernel f16_kernel(Form form, int cluster, bool gated) {
  return find_kernel<__half>(form, cluster, gated);
}

}  // namespace tandem::kernels::tiled_gemm
