#include "kernels/limits/stream.h"

#include "harness/base/error.h"
#include "kernels/common/device.cuh"
#include "kernels/common/launch.h"
#include "kernels/common/memory_ptx.cuh"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 256;

__device__ inline uint32_t words(const uint4& v) {
  return v.x + v.y + v.z + v.w;
}

__device__ inline void add_to(uint32_t* sum, uint32_t v) {
#pragma unroll
  for (int m = kWarp / 2; m > 0; m >>= 1) v += __shfl_xor_sync(0xffffffffu, v, m);
  if (threadIdx.x % kWarp == 0) atomicAdd(sum, v);
}

__global__ void pattern_kernel(uint32_t* out, int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    out[i] = static_cast<uint32_t>(i) * kPatternStep;
  }
}

template <int IN_FLIGHT, bool STREAM>
__global__ void __launch_bounds__(kThreads)
    read_kernel(const uint4* in, int64_t count, int repeats, uint32_t* sum) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  uint32_t total = 0;
  for (int r = 0; r < repeats; ++r) {
    int64_t i = first;
    for (; i + (IN_FLIGHT - 1) * step < count; i += IN_FLIGHT * step) {
      uint4 v[IN_FLIGHT];
#pragma unroll
      for (int j = 0; j < IN_FLIGHT; ++j) {
        v[j] = STREAM ? load_stream(in + i + j * step) : load_past_l1(in + i + j * step);
      }
#pragma unroll
      for (int j = 0; j < IN_FLIGHT; ++j) total += words(v[j]);
    }
    for (; i < count; i += step) total += words(load_past_l1(in + i));
  }
  add_to(sum, total);
}

template <int IN_FLIGHT>
__global__ void __launch_bounds__(kThreads) copy_kernel(const uint4* in, uint4* out, int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (; i + (IN_FLIGHT - 1) * step < count; i += IN_FLIGHT * step) {
    uint4 v[IN_FLIGHT];
#pragma unroll
    for (int j = 0; j < IN_FLIGHT; ++j) v[j] = load_past_l1(in + i + j * step);
#pragma unroll
    for (int j = 0; j < IN_FLIGHT; ++j) out[i + j * step] = v[j];
  }
  for (; i < count; i += step) out[i] = in[i];
}

__global__ void count_wrong_kernel(const uint32_t* in, int64_t count, uint32_t* wrong) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  uint32_t mine = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    mine += in[i] != static_cast<uint32_t>(i) * kPatternStep ? 1u : 0u;
  }
  add_to(wrong, mine);
}

__global__ void chain_node_kernel(uint32_t* counter) {
  pdl_launch_dependents();
  pdl_wait();
  if (counter != nullptr) *counter += 1;
}

LaunchShape grid_of(const StreamParams& p) {
  return {.grid = dim3(static_cast<unsigned>(p.sms * p.shape.blocks_per_sm)), .block = dim3(kThreads)};
}

void check(const StreamParams& p) {
  if (p.bytes <= 0 || p.bytes % 16 != 0) throw UsageError("stream: bytes must be a positive multiple of 16");
  if (p.shape.in_flight != 4 && p.shape.in_flight != 8) throw UsageError("stream: in_flight must be 4 or 8");
  if (p.shape.blocks_per_sm < 1 || p.sms < 1)
    throw UsageError("stream: blocks_per_sm and sms must be at least 1");
}

template <bool STREAM>
void read_with(const StreamParams& p, cudaStream_t stream) {
  check(p);
  const auto* in = static_cast<const uint4*>(p.in);
  const auto kernel = p.shape.in_flight == 4 ? read_kernel<4, STREAM> : read_kernel<8, STREAM>;
  launch(kernel, grid_of(p), stream, in, p.bytes / 16, p.repeats, p.sum);
}

}  // namespace

void launch_pattern(const StreamParams& p, cudaStream_t stream) {
  check(p);
  launch(pattern_kernel, grid_of(p), stream, static_cast<uint32_t*>(p.out), p.bytes / 4);
}

void launch_read(const StreamParams& p, cudaStream_t stream) {
  read_with<true>(p, stream);
}
void launch_read_l2(const StreamParams& p, cudaStream_t stream) {
  read_with<false>(p, stream);
}

void launch_copy(const StreamParams& p, cudaStream_t stream) {
  check(p);
  const auto kernel = p.shape.in_flight == 4 ? copy_kernel<4> : copy_kernel<8>;
  launch(kernel, grid_of(p), stream, static_cast<const uint4*>(p.in), static_cast<uint4*>(p.out),
         p.bytes / 16);
}

void launch_count_wrong(const StreamParams& p, cudaStream_t stream) {
  check(p);
  launch(count_wrong_kernel, grid_of(p), stream, static_cast<const uint32_t*>(p.in), p.bytes / 4, p.sum);
}

void launch_chain_node(const ChainNodeParams& p, cudaStream_t stream) {
  launch(chain_node_kernel, {.grid = dim3(1), .block = dim3(1), .dependent = p.dependent}, stream, p.counter);
}

}  // namespace tandem::kernels
