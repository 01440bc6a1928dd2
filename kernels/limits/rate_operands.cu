#include <cuda_fp8.h>

#include <algorithm>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "harness/base/random.h"
#include "kernels/common/device.cuh"
#include "kernels/common/launch.h"
#include "kernels/limits/rate_operands.h"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 8192;

template <typename T>
__device__ inline T operand(uint32_t bits) {
  const float v = static_cast<float>(static_cast<int32_t>(bits)) * 0x1p-31f;
  if constexpr (sizeof(T) > 1) {
    return from_float<T>(v);
  } else {
    return T(v);
  }
}
template <>
__device__ inline int8_t operand<int8_t>(uint32_t bits) {
  return static_cast<int8_t>(static_cast<int>(bits % 255u) - 127);
}

template <typename T>
__global__ void rate_fill_kernel(T* out, int64_t count, uint64_t key) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    out[i] = operand<T>(static_cast<uint32_t>(random_bits(key, static_cast<uint64_t>(i)) >> 32));
  }
}

template <typename T>
void fill(const RateFillParams& p, cudaStream_t stream) {
  const int64_t blocks = std::min(ceil_div(p.count, kThreads), kMaxBlocks);
  launch(rate_fill_kernel<T>, {.grid = dim3(static_cast<unsigned>(blocks)), .block = dim3(kThreads)}, stream,
         static_cast<T*>(p.out), p.count, p.key);
}

[[noreturn]] void refuse() {
  throw UsageError("matrix rate: precision must be fp32, tf32, fp16, bf16, fp8 or int8");
}

}  // namespace

void launch_rate_fill(const RateFillParams& p, cudaStream_t stream) {
  if (p.count == 0) return;
  switch (p.precision) {
    case Precision::kFp32:
    case Precision::kTf32:
      return fill<float>(p, stream);
    case Precision::kFp16:
      return fill<__half>(p, stream);
    case Precision::kBf16:
      return fill<__nv_bfloat16>(p, stream);
    case Precision::kFp8:
      return fill<__nv_fp8_e4m3>(p, stream);
    case Precision::kInt8:
      return fill<int8_t>(p, stream);
    default:
      refuse();
  }
}

int64_t operand_bytes(Precision precision) {
  switch (precision) {
    case Precision::kFp32:
    case Precision::kTf32:
      return 4;
    case Precision::kFp16:
    case Precision::kBf16:
      return 2;
    case Precision::kFp8:
    case Precision::kInt8:
      return 1;
    default:
      refuse();
  }
}

double operand_value(Precision precision, const void* data, int64_t i) {
  switch (precision) {
    case Precision::kFp32:
    case Precision::kTf32:
      return static_cast<const float*>(data)[i];
    case Precision::kFp16:
      return __half2float(static_cast<const __half*>(data)[i]);
    case Precision::kBf16:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
    case Precision::kFp8:
      return static_cast<float>(static_cast<const __nv_fp8_e4m3*>(data)[i]);
    case Precision::kInt8:
      return static_cast<const int8_t*>(data)[i];
    default:
      refuse();
  }
}

}  // namespace tandem::kernels
