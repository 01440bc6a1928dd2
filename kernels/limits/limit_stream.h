// A stream of its own and what the measurements share. Internal to this folder.
#pragma once

#include <cuda_runtime_api.h>

#include <limits>
#include <string>
#include <utility>

#include "harness/base/stats.h"
#include "kernels/common/timed_graph.h"
#include "kernels/limits/limits.h"

namespace tandem::kernels {

class LimitStream {
 public:
  LimitStream() {
    TANDEM_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    int device = 0;
    TANDEM_CUDA_CHECK(cudaGetDevice(&device));
    TANDEM_CUDA_CHECK(cudaDeviceGetAttribute(&sms_, cudaDevAttrMultiProcessorCount, device));
    TANDEM_CUDA_CHECK(cudaDeviceGetAttribute(&l2_bytes_, cudaDevAttrL2CacheSize, device));
  }
  ~LimitStream() { TANDEM_CUDA_WARN(cudaStreamDestroy(stream_)); }
  LimitStream(const LimitStream&) = delete;
  LimitStream& operator=(const LimitStream&) = delete;

  cudaStream_t get() const { return stream_; }
  int sms() const { return sms_; }
  int64_t l2_bytes() const { return l2_bytes_; }
  void wait() const { TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
  int sms_ = 0;
  int l2_bytes_ = 0;
};

inline Limit wrong_limit(std::string what) {
  return {.value = std::numeric_limits<double>::quiet_NaN(), .samples = {}, .wrong = std::move(what)};
}
inline Limit good_limit(std::vector<double> samples) {
  const double value = median(samples);
  return {.value = value, .samples = std::move(samples), .wrong = {}};
}

}  // namespace tandem::kernels
