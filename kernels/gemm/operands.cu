#include <cuda_fp8.h>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "harness/base/random.h"
#include "kernels/common/device.cuh"
#include "kernels/common/launch.h"
#include "kernels/gemm/operands.h"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 4096;

dim3 blocks_for(int64_t items) {
  const int64_t blocks = ceil_div(items, kThreads);
  return dim3(static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks));
}

template <typename T>
__device__ inline T rounded_to(float v) {
  return from_float<T>(v);
}
template <>
__device__ inline __nv_fp8_e4m3 rounded_to<__nv_fp8_e4m3>(float v) {
  return __nv_fp8_e4m3(v);
}
template <>
__device__ inline int8_t rounded_to<int8_t>(float v) {
  return static_cast<int8_t>(__float2int_rn(v));
}

template <typename T>
__global__ void random_fill_kernel(T* out, int64_t count, uint64_t key, float scale) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    const auto bits = static_cast<int32_t>(random_bits(key, static_cast<uint64_t>(i)) >> 32);
    out[i] = rounded_to<T>(static_cast<float>(bits) * 0x1p-31f * scale);
  }
}

/// Clears two of four neighbours: the kept pairs are equally likely.
__global__ void clear_two_of_four_kernel(uint16_t* values, int64_t groups, uint64_t key) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t g = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; g < groups; g += step) {
    const uint32_t first = uniform_below(~key, static_cast<uint64_t>(2 * g), 4);
    const uint32_t second = (first + 1 + uniform_below(~key, static_cast<uint64_t>(2 * g + 1), 3)) % 4;
    values[4 * g + first] = 0;
    values[4 * g + second] = 0;
  }
}

__global__ void digest_kernel(DigestParams p) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  const auto* data = static_cast<const uint8_t*>(p.data);
  uint64_t sum = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < p.rows * p.row_bytes;
       i += step) {
    const int64_t row = i / p.row_bytes;
    sum += mix64(static_cast<uint64_t>(i) * 256 + data[row * p.stride_bytes + (i - row * p.row_bytes)]);
  }
#pragma unroll
  for (int m = kWarp / 2; m > 0; m >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, m);
  if (threadIdx.x % kWarp == 0) {
    atomicAdd(reinterpret_cast<unsigned long long*>(p.digest), static_cast<unsigned long long>(sum));
  }
}

template <typename T>
void fill(const RandomFillParams& p, cudaStream_t stream) {
  launch(random_fill_kernel<T>, {.grid = blocks_for(p.count), .block = dim3(kThreads)}, stream,
         static_cast<T*>(p.out), p.count, p.key, p.scale);
}

}  // namespace

void launch_random_fill(const RandomFillParams& params, cudaStream_t stream) {
  if (params.count == 0) return;
  switch (params.dtype) {
    case DType::kF32:
      return fill<float>(params, stream);
    case DType::kF16:
      return fill<__half>(params, stream);
    case DType::kBF16:
      return fill<__nv_bfloat16>(params, stream);
    case DType::kF8:
      return fill<__nv_fp8_e4m3>(params, stream);
    case DType::kI8:
      return fill<int8_t>(params, stream);
    default:
      throw UsageError("random fill: dtype must be f32, f16, bf16, f8 or i8");
  }
}

void launch_random_two_of_four(const RandomFillParams& params, cudaStream_t stream) {
  if (params.dtype != DType::kF16 && params.dtype != DType::kBF16)
    throw UsageError("random 2:4: dtype must be f16 or bf16");
  if (params.count == 0) return;
  launch_random_fill(params, stream);
  launch(clear_two_of_four_kernel, {.grid = blocks_for(params.count / 4), .block = dim3(kThreads)}, stream,
         static_cast<uint16_t*>(params.out), params.count / 4, params.key);
}

void launch_digest(const DigestParams& params, cudaStream_t stream) {
  if (params.rows * params.row_bytes == 0) return;
  launch(digest_kernel, {.grid = blocks_for(params.rows * params.row_bytes), .block = dim3(kThreads)}, stream,
         params);
}

}  // namespace tandem::kernels
