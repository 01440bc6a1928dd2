#include "kernels/limits/delay.h"

#include "harness/base/error.h"
#include "kernels/common/device.cuh"
#include "kernels/common/launch.h"
#include "kernels/common/memory_ptx.cuh"

namespace tandem::kernels {
namespace {

constexpr int64_t kMaxNs = 10'000'000'000;

__global__ void delay_kernel(int64_t ns) {
  pdl_launch_dependents();
  pdl_wait();
  const uint64_t start = global_ns();
  uint64_t now = start;
  while (now - start < static_cast<uint64_t>(ns)) {
    __nanosleep(100);
    now = global_ns();
  }
}

__global__ void empty_kernel() {
  pdl_launch_dependents();
  pdl_wait();
}

}  // namespace

void launch_delay(const DelayParams& p, cudaStream_t stream) {
  if (p.ns < 0 || p.ns > kMaxNs) throw UsageError("delay: ns must be in 0 .. 10000000000");
  if (p.blocks < 1) throw UsageError("delay: blocks must be at least 1");
  launch(delay_kernel,
         {.grid = dim3(static_cast<unsigned>(p.blocks)), .block = dim3(1), .dependent = p.dependent}, stream,
         p.ns);
}

void launch_empty(const EmptyParams& p, cudaStream_t stream) {
  if (p.blocks < 1) throw UsageError("empty kernel: blocks must be at least 1");
  launch(empty_kernel,
         {.grid = dim3(static_cast<unsigned>(p.blocks)), .block = dim3(1), .dependent = p.dependent}, stream);
}

}  // namespace tandem::kernels
