#include "kernels/quantise/row_max.h"

#include <string>

#include "harness/base/error.h"
#include "kernels/common/codes.h"
#include "kernels/common/device.cuh"
#include "kernels/common/launch.h"
#include "kernels/common/memory_ptx.cuh"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 128;

template <typename T>
__global__ void __launch_bounds__(kThreads) row_max_kernel(const __grid_constant__ RowMaxParams p) {
  pdl_launch_dependents();
  pdl_wait();
  const int64_t row = blockIdx.x;
  const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
  uint32_t most = 0;
  for (int64_t i = threadIdx.x; i < p.cols; i += kThreads) most = max(most, magnitude_bits(to_float(x[i])));
  __shared__ uint32_t of_warp[kThreads / kWarp];
  most = __reduce_max_sync(0xffffffffu, most);
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = most;
  __syncthreads();
  if (threadIdx.x != 0) return;
#pragma unroll
  for (int w = 1; w < kThreads / kWarp; ++w) most = max(most, of_warp[w]);
  p.max[row] = __uint_as_float(most);
}

}  // namespace

void launch_row_max(const RowMaxParams& params, cudaStream_t stream) {
  const auto require = [](bool good, const char* field, const char* rule) {
    if (!good) throw UsageError(std::string("row maxima: ") + field + " " + rule);
  };
  RowMaxParams p = params;
  if (p.x_stride == 0) p.x_stride = p.cols;
  require(p.rows >= 0 && p.rows <= INT32_MAX, "rows", "must be 0 to 2^31 - 1");
  require(p.cols >= 1, "cols", "must be at least 1");
  require(p.x_stride >= p.cols, "x_stride", "must be 0 or at least cols");
  require(p.x != nullptr, "x", "must be there");
  require(p.max != nullptr, "max", "must be there");
  if (p.rows == 0) return;
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(p.rows)), .block = dim3(kThreads), .dependent = p.dependent};
  switch (p.dtype) {
    case DType::kF32:
      return launch(row_max_kernel<float>, shape, stream, p);
    case DType::kF16:
      return launch(row_max_kernel<__half>, shape, stream, p);
    case DType::kBF16:
      return launch(row_max_kernel<__nv_bfloat16>, shape, stream, p);
    default:
      require(false, "dtype", "must be f32, f16 or bf16");
  }
}

}  // namespace tandem::kernels
