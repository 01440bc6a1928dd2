// Products of bf16 by cuBLAS, with no kernel of ours: racecheck with a filter by name that leaves them out ends in an illegal address.
// cmake --build build/h200 --target racecheck_probe
// compute-sanitizer --tool racecheck --kernel-name kernel_substring=none build/h200/bin/racecheck_probe
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdio>

int main() {
  const float one = 1, none = 0;
  cublasHandle_t cublas = nullptr;
  if (cublasCreate(&cublas) != CUBLAS_STATUS_SUCCESS) return 2;
  for (const int n : {64, 256, 1024, 4096}) {
    __nv_bfloat16 *a = nullptr, *b = nullptr, *c = nullptr;
    const size_t bytes = sizeof(__nv_bfloat16) * static_cast<size_t>(n) * n;
    for (__nv_bfloat16** p : {&a, &b, &c}) {
      if (cudaMalloc(p, bytes) != cudaSuccess || cudaMemset(*p, 0, bytes) != cudaSuccess) return 2;
    }
    for (const int m : {1, 16, 84, n}) {
      cublasGemmEx(cublas, CUBLAS_OP_T, CUBLAS_OP_N, n, m, n, &one, a, CUDA_R_16BF, n, b, CUDA_R_16BF, n,
                   &none, c, CUDA_R_16BF, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
      const cudaError_t end = cudaDeviceSynchronize();
      std::printf("n %d m %d: %s\n", n, m, cudaGetErrorString(end));
      if (end != cudaSuccess) return 1;
    }
    for (__nv_bfloat16* p : {a, b, c}) cudaFree(p);
  }
  return 0;
}
