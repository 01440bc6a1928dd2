#include "harness/base/cuda_check.h"
#include "kernels/common/memory_ptx.cuh"
#include "kernels/runtime/clock_mark.h"

namespace tandem::kernels {
namespace {

__global__ void clock_mark_kernel(ClockMark::Reading* out) {
  ClockMark::Reading r;
  r.ns = global_ns();
  r.cycles = cycles();
  asm volatile("mov.u32 %0, %%smid;" : "=r"(r.sm));
  *out = r;
}

}  // namespace

ClockMark::ClockMark() {
  void* memory = nullptr;
  TANDEM_CUDA_CHECK(cudaHostAlloc(&memory, sizeof(Reading), cudaHostAllocDefault));
  now_ = static_cast<Reading*>(memory);
}

ClockMark::~ClockMark() {
  TANDEM_CUDA_WARN(cudaFreeHost(now_));
}

std::optional<double> ClockMark::mark(cudaStream_t stream) {
  clock_mark_kernel<<<1, 1, 0, stream>>>(now_);
  TANDEM_CUDA_CHECK(cudaGetLastError());
  TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
  const std::optional<Reading> before = last_;
  last_ = *now_;
  if (!before || before->sm != last_->sm || last_->ns <= before->ns) return std::nullopt;
  const double us = static_cast<double>(last_->ns - before->ns) * 1e-3;
  if (us < kLeast_us || last_->cycles <= before->cycles) return std::nullopt;
  return static_cast<double>(last_->cycles - before->cycles) / us;
}

}  // namespace tandem::kernels
