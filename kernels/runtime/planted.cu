#include "kernels/runtime/planted.h"

#include <cstdint>

#include "harness/base/cuda_check.h"
#include "harness/engine/planted.h"
#include "kernels/common/memory_ptx.cuh"

namespace tandem::kernels {
namespace {

/// What the two launches themselves add to a graph: 1.29 us a dependent node on an H200 (driver 580, CUDA 13.0). Taken off
/// the wait, so that the whole is delayed by the share asked for, or by this where the share is less.
constexpr double kNodes_ns = 2 * 1290;
/// No piece of work takes so long that a delay would pass this; it bounds the wait when the timer jumps.
constexpr double kMost_ns = 1e9;

__device__ uint64_t piece_begin_ns;

__global__ void plant_begin_kernel() {
  piece_begin_ns = global_ns();
}

__global__ void plant_end_kernel(double share) {
  const uint64_t now = global_ns();
  const double taken = static_cast<double>(now - piece_begin_ns);
  const double wait = fmin(taken * share - kNodes_ns, kMost_ns);
  if (wait <= 0) return;
  const uint64_t end = now + static_cast<uint64_t>(wait);
  while (global_ns() < end) __nanosleep(20);
}

bool planted() {
  return planted_delay_percent() > 0;
}

}  // namespace

void plant_prepare(cudaStream_t stream) {
  if (!planted()) return;
  plant_begin(stream);
  plant_end(stream);
  TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
}

void plant_begin(cudaStream_t stream) {
  if (!planted()) return;
  plant_begin_kernel<<<1, 1, 0, stream>>>();
  TANDEM_CUDA_CHECK(cudaGetLastError());
}

void plant_end(cudaStream_t stream) {
  if (!planted()) return;
  plant_end_kernel<<<1, 1, 0, stream>>>(planted_delay_percent() / 100);
  TANDEM_CUDA_CHECK(cudaGetLastError());
}

}  // namespace tandem::kernels
