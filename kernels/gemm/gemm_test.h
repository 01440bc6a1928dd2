// What the tests of products share.
#pragma once

#include <cuda_runtime_api.h>

#include <cmath>

#include "harness/base/cuda_check.h"
#include "kernels/gemm/problem.h"

namespace tandem::kernels {

class Stream {
 public:
  Stream() { TANDEM_CUDA_CHECK(cudaStreamCreate(&stream_)); }
  ~Stream() { TANDEM_CUDA_WARN(cudaStreamDestroy(stream_)); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  void wait() const { TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
};

inline double activated(GemmEpilogue e, double v) {
  switch (e) {
    case GemmEpilogue::kRelu:
    case GemmEpilogue::kBiasRelu:
      return v > 0 ? v : 0;
    case GemmEpilogue::kGeluTanh:
    case GemmEpilogue::kBiasGeluTanh:
      return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    default:
      return v;
  }
}

}  // namespace tandem::kernels
