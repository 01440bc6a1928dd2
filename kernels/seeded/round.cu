#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "kernels/common/device.cuh"
#include "kernels/common/launch.h"
#include "kernels/seeded/round.h"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 256;

__device__ inline float rounded(float v, Precision precision) {
  switch (precision) {
    case Precision::kTf32: {
      const uint32_t u = __float_as_uint(v);
      return (u & 0x7f800000u) == 0x7f800000u ? v : __uint_as_float((u + 0x1000u) & 0xffffe000u);
    }
    case Precision::kFp16:
      return to_float(from_float<__half>(v));
    case Precision::kBf16:
      return to_float(from_float<__nv_bfloat16>(v));
    default:
      return v;
  }
}

__global__ void round_kernel(float* values, int64_t count, Precision precision) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    values[i] = rounded(values[i], precision);
  }
}

}  // namespace

void launch_round(float* values, int64_t count, Precision precision, cudaStream_t stream) {
  if (precision != Precision::kFp32 && precision != Precision::kTf32 && precision != Precision::kFp16 &&
      precision != Precision::kBf16) {
    throw UsageError("round: precision must be fp32, tf32, fp16 or bf16");
  }
  if (count == 0 || precision == Precision::kFp32) return;
  const int64_t blocks = ceil_div(count, kThreads);
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(blocks < 4096 ? blocks : 4096)),
                          .block = dim3(kThreads)};
  launch(round_kernel, shape, stream, values, count, precision);
}

}  // namespace tandem::kernels
