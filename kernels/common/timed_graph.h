// Work captured once into a CUDA graph and timed with events: no host time between its kernels.
#pragma once

#include <cuda_runtime_api.h>

#include <utility>

#include "harness/base/cuda_check.h"
#include "kernels/common/capture.h"

namespace tandem::kernels {

class TimedGraph {
 public:
  /// Captures what `work(stream)` enqueues. `stream` must not be the default stream; everything that `work`
  /// launches should have run once before, so that no kernel is loaded inside the capture.
  template <typename Work>
  TimedGraph(cudaStream_t stream, Work&& work) : stream_(stream) {
    exec_ = capture(stream, [&] { std::forward<Work>(work)(stream); });
    TANDEM_CUDA_CHECK(cudaEventCreate(&begin_));
    TANDEM_CUDA_CHECK(cudaEventCreate(&end_));
  }
  ~TimedGraph() {
    if (begin_ != nullptr) TANDEM_CUDA_WARN(cudaEventDestroy(begin_));
    if (end_ != nullptr) TANDEM_CUDA_WARN(cudaEventDestroy(end_));
    if (exec_ != nullptr) TANDEM_CUDA_WARN(cudaGraphExecDestroy(exec_));
  }
  TimedGraph(TimedGraph&& other) noexcept
      : stream_(other.stream_),
        exec_(std::exchange(other.exec_, nullptr)),
        begin_(std::exchange(other.begin_, nullptr)),
        end_(std::exchange(other.end_, nullptr)) {}
  TimedGraph& operator=(TimedGraph&& other) noexcept {
    std::swap(stream_, other.stream_);
    std::swap(exec_, other.exec_);
    std::swap(begin_, other.begin_);
    std::swap(end_, other.end_);
    return *this;
  }

  void launch() { TANDEM_CUDA_CHECK(cudaGraphLaunch(exec_, stream_)); }

  /// One replay between two events, waited for; us. `replays` > 1: so many back to back, us of all of them.
  double time_us(int replays = 1) {
    TANDEM_CUDA_CHECK(cudaEventRecord(begin_, stream_));
    for (int i = 0; i < replays; ++i) launch();
    TANDEM_CUDA_CHECK(cudaEventRecord(end_, stream_));
    TANDEM_CUDA_CHECK(cudaEventSynchronize(end_));
    float ms = 0;
    TANDEM_CUDA_CHECK(cudaEventElapsedTime(&ms, begin_, end_));
    return ms * 1e3;
  }

 private:
  cudaStream_t stream_ = nullptr;
  cudaGraphExec_t exec_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

}  // namespace tandem::kernels
