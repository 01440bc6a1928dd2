#include <bit>
#include <string>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "kernels/common/codes.cuh"
#include "kernels/common/launch.h"
#include "kernels/common/row_access.cuh"
#include "kernels/quantise/quantise.h"

namespace tandem::kernels {
namespace {

constexpr int kWarpBlock = 256;  // threads of a block whose lanes share groups
constexpr int kAnyBlock = 256;   // threads of the fallback's block, which owns a group
constexpr int kMaxBlock = 1024;
constexpr int kChunks = 4;  // 16-byte pieces of x that a thread has in flight

/// Where the group of that number lies.
struct Place {
  int64_t x;
  int64_t codes;
  int64_t scale;
};
__device__ inline Place place(const QuantiseRowsParams& p, uint32_t unit) {
  const auto groups = static_cast<uint32_t>(p.cols / p.group);
  const uint32_t row = unit / groups;
  const uint32_t g = unit - row * groups;
  return {.x = row * p.x_stride + g * p.group,
          .codes = row * p.code_stride + g * p.group,
          .scale = row * p.scale_stride + g * p.scale_group_stride};
}

template <typename T, int V>
__device__ inline uint32_t largest(const Piece<T, V, false>& piece) {
  float v[V];
  piece.get(false, v);
  uint32_t top = 0;
#pragma unroll
  for (int j = 0; j < V; ++j) top = max(top, magnitude_bits(v[j]));
  return top;
}

/// 2^log2_lanes neighbouring lanes share a group. A thread has UNITS groups at once, CHUNKS pieces of each.
template <typename T, DType Code, int CHUNKS, int UNITS>
__global__ void __launch_bounds__(kWarpBlock)
    quantise_warp_kernel(QuantiseRowsParams p, uint32_t units, int log2_lanes) {
  constexpr int V = kVec<T>;
  const int lanes = 1 << log2_lanes;
  const int lane = static_cast<int>(threadIdx.x) & (lanes - 1);
  const uint32_t block_units = kWarpBlock >> log2_lanes;
  const uint32_t first = blockIdx.x * (block_units * UNITS) + (threadIdx.x >> log2_lanes);
  pdl_launch_dependents();
  pdl_wait();
  Piece<T, V, false> x[UNITS][CHUNKS];
#pragma unroll
  for (int u = 0; u < UNITS; ++u) {
    const uint32_t unit = first + u * block_units;
    const int64_t from = place(p, unit).x;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
      const int i = (c * lanes + lane) * V;
      x[u][c].load(p.x, from + i, false, unit < units && i < p.group);
    }
  }
#pragma unroll
  for (int u = 0; u < UNITS; ++u) {
    uint32_t top = 0;  // what lies beyond the group is 0
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) top = max(top, largest(x[u][c]));
    for (int m = lanes / 2; m > 0; m >>= 1) top = max(top, __shfl_xor_sync(0xffffffffu, top, m));
    const uint32_t unit = first + u * block_units;
    if (unit >= units) continue;
    const Place at = place(p, unit);
    const Divider divide(scale_of(top, Code));
    if (lane == 0) p.scales[at.scale] = divide.scale();
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
      const int i = (c * lanes + lane) * V;
      if (i >= p.group) continue;
      float v[V];
      x[u][c].get(false, v);
      store_codes<Code>(p.codes, at.codes + i, divide, v);
    }
  }
}

/// The largest over a block, of bits; every thread gets it.
__device__ inline uint32_t block_max(uint32_t v, uint32_t* partial) {
  v = __reduce_max_sync(0xffffffffu, v);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (lane == 0) partial[threadIdx.x / kWarp] = v;
  __syncthreads();
  return __reduce_max_sync(0xffffffffu, lane < static_cast<int>(blockDim.x) / kWarp ? partial[lane] : 0u);
}

/// A block owns a group.
template <typename T, DType Code>
__global__ void __launch_bounds__(kMaxBlock) quantise_block_kernel(QuantiseRowsParams p) {
  constexpr int V = kVec<T>;
  __shared__ uint32_t partial[kWarp];
  const int threads = static_cast<int>(blockDim.x);
  const Place at = place(p, blockIdx.x);
  pdl_launch_dependents();
  pdl_wait();
  Piece<T, V, false> x[kChunks];
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int i = (c * threads + static_cast<int>(threadIdx.x)) * V;
    x[c].load(p.x, at.x + i, false, i < p.group);
  }
  uint32_t top = 0;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) top = max(top, largest(x[c]));
  const Divider divide(scale_of(block_max(top, partial), Code));
  if (threadIdx.x == 0) p.scales[at.scale] = divide.scale();
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int i = (c * threads + static_cast<int>(threadIdx.x)) * V;
    if (i >= p.group) continue;
    float v[V];
    x[c].get(false, v);
    store_codes<Code>(p.codes, at.codes + i, divide, v);
  }
}

/// Any group and any alignment: a block a group, read twice.
template <typename T, DType Code>
__global__ void __launch_bounds__(kAnyBlock) quantise_any_kernel(QuantiseRowsParams p) {
  __shared__ uint32_t partial[kWarp];
  const Place at = place(p, blockIdx.x);
  pdl_launch_dependents();
  pdl_wait();
  const T* x = static_cast<const T*>(p.x) + at.x;
  uint32_t top = 0;
  for (int64_t i = threadIdx.x; i < p.group; i += kAnyBlock) top = max(top, magnitude_bits(to_float(x[i])));
  const Divider divide(scale_of(block_max(top, partial), Code));
  if (threadIdx.x == 0) p.scales[at.scale] = divide.scale();
  for (int64_t i = threadIdx.x; i < p.group; i += kAnyBlock) {
    const float v[1] = {to_float(x[i])};
    store_codes<Code>(p.codes, at.codes + i, divide, v);
  }
}

template <typename T, DType Code, int CHUNKS, int UNITS>
void launch_warps(const QuantiseRowsParams& p, uint32_t units, cudaStream_t stream) {
  const auto pieces = static_cast<unsigned>(ceil_div<int64_t, int64_t>(p.group, kVec<T>));
  const int log2_lanes = CHUNKS > 1 ? 5 : std::countr_zero(std::bit_ceil(pieces));
  const auto block_units = static_cast<uint32_t>((kWarpBlock >> log2_lanes) * UNITS);
  launch(quantise_warp_kernel<T, Code, CHUNKS, UNITS>,
         {.grid = dim3(ceil_div(units, block_units)), .block = dim3(kWarpBlock), .dependent = p.dependent},
         stream, p, units, log2_lanes);
}

template <typename T, DType Code>
void dispatch(const QuantiseRowsParams& p, uint32_t units, cudaStream_t stream) {
  constexpr int V = kVec<T>;
  const auto bits = static_cast<uintptr_t>(tensor_bytes(p.dtype, p.group)) |
                    static_cast<uintptr_t>(tensor_bytes(p.dtype, p.x_stride)) |
                    reinterpret_cast<uintptr_t>(p.x);
  const auto code_bits = static_cast<uintptr_t>(p.code_stride) | reinterpret_cast<uintptr_t>(p.codes);
  if (bits % 16 != 0 || code_bits % V != 0 || p.group > int64_t{V} * kChunks * kMaxBlock) {
    return launch(quantise_any_kernel<T, Code>,
                  {.grid = dim3(units), .block = dim3(kAnyBlock), .dependent = p.dependent}, stream, p);
  }
  if (p.group <= V * kWarp) return launch_warps<T, Code, 1, kChunks>(p, units, stream);
  // A warp alone is slow for one row, and fills the card with many.
  if (p.group <= V * kWarp * kChunks) return launch_warps<T, Code, kChunks, 1>(p, units, stream);
  const int threads = round_up(static_cast<int>(ceil_div<int64_t, int64_t>(p.group, V * kChunks)), kWarp);
  launch(quantise_block_kernel<T, Code>,
         {.grid = dim3(units), .block = dim3(static_cast<unsigned>(threads)), .dependent = p.dependent},
         stream, p);
}

template <typename T>
void dispatch(const QuantiseRowsParams& p, uint32_t units, cudaStream_t stream) {
  if (p.code_dtype == DType::kF8) return dispatch<T, DType::kF8>(p, units, stream);
  return dispatch<T, DType::kI8>(p, units, stream);
}

void check(const QuantiseRowsParams& p) {
  const auto refuse = [](const std::string& what) { throw UsageError("quantise rows: " + what); };
  if (p.dtype != DType::kF32 && p.dtype != DType::kF16 && p.dtype != DType::kBF16) {
    refuse("dtype must be f32, f16 or bf16");
  }
  if (p.code_dtype != DType::kF8 && p.code_dtype != DType::kI8) refuse("code_dtype must be f8 or i8");
  if (p.rows < 0 || p.cols < 1) refuse("rows must be at least 0 and cols at least 1");
  if (p.group < 1 || p.cols % p.group != 0) refuse("group must divide cols");
  if (p.rows * (p.cols / p.group) > 0x7fffffff) refuse("rows * cols / group must be at most 2147483647");
  if (p.x == nullptr || p.codes == nullptr || p.scales == nullptr) {
    refuse("x, codes and scales must not be null");
  }
  if (p.x_stride != 0 && p.x_stride < p.cols) refuse("x_stride must be 0 or at least cols");
  if (p.code_stride != 0 && p.code_stride < p.cols) refuse("code_stride must be 0 or at least cols");
  if (p.scale_stride < 0 || p.scale_group_stride < 0) refuse("strides of scales must be at least 0");
}

}  // namespace

void launch_quantise_rows(const QuantiseRowsParams& params, cudaStream_t stream) {
  check(params);
  if (params.rows == 0) return;
  QuantiseRowsParams p = params;
  const int64_t groups = p.cols / p.group;
  if (p.x_stride == 0) p.x_stride = p.cols;
  if (p.code_stride == 0) p.code_stride = p.cols;
  if (p.scale_stride == 0) p.scale_stride = groups;
  if (p.scale_group_stride == 0) p.scale_group_stride = 1;
  const auto units = static_cast<uint32_t>(p.rows * groups);
  switch (p.dtype) {
    case DType::kF16:
      return dispatch<__half>(p, units, stream);
    case DType::kBF16:
      return dispatch<__nv_bfloat16>(p, units, stream);
    default:
      return dispatch<float>(p, units, stream);
  }
}

}  // namespace tandem::kernels
