// A piece of a stream's work as an executable CUDA graph. Programmatic dependent launches inside it stay such
// edges.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <utility>

#include "harness/base/cuda_check.h"
#include "kernels/common/capture.h"
#include "kernels/runtime/planted.h"

namespace tandem::kernels {

class Graph {
 public:
  Graph() = default;
  /// Captures what `work()` enqueues on `stream`. Every kernel in it must have run once before: loading one
  /// inside a capture is not allowed. Adds the time it took to `build_us`. Where work may be planted, `work()` is captured
  /// twice: without and with it.
  template <typename Work>
  Graph(cudaStream_t stream, double& build_us, Work&& work) : Graph() {
    const auto start = std::chrono::steady_clock::now();
    exec_ = uploaded(capture(stream, work), stream);
    build_us += std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
    if (!plant_possible()) return;
    launch_planted_work(stream);
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
    const auto both = [&] {
      work();
      launch_planted_work(stream);
    };
    planted_ = uploaded(capture(stream, both), stream);
  }
  ~Graph() {
    for (const cudaGraphExec_t exec : {exec_, planted_}) {
      if (exec != nullptr) TANDEM_CUDA_WARN(cudaGraphExecDestroy(exec));
    }
  }
  Graph(Graph&& other) noexcept
      : exec_(std::exchange(other.exec_, nullptr)), planted_(std::exchange(other.planted_, nullptr)) {}
  Graph& operator=(Graph&& other) noexcept {
    std::swap(exec_, other.exec_);
    std::swap(planted_, other.planted_);
    return *this;
  }

  explicit operator bool() const { return exec_ != nullptr; }
  void launch(cudaStream_t stream) const {
    TANDEM_CUDA_CHECK(cudaGraphLaunch(planted_ != nullptr && has_planted_work() ? planted_ : exec_, stream));
  }

 private:
  static cudaGraphExec_t uploaded(cudaGraphExec_t exec, cudaStream_t stream) {
    TANDEM_CUDA_CHECK(cudaGraphUpload(exec, stream));
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
    return exec;
  }

  cudaGraphExec_t exec_ = nullptr;
  cudaGraphExec_t planted_ = nullptr;  // the same with planted work after it
};

/// An event with its timestamp.
class Event {
 public:
  Event() { TANDEM_CUDA_CHECK(cudaEventCreate(&event_)); }
  ~Event() { TANDEM_CUDA_WARN(cudaEventDestroy(event_)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(cudaStream_t stream) { TANDEM_CUDA_CHECK(cudaEventRecord(event_, stream)); }
  void wait() { TANDEM_CUDA_CHECK(cudaEventSynchronize(event_)); }
  cudaEvent_t get() const { return event_; }
  /// Microseconds from `start`; both must have happened.
  double us_since(const Event& start) const {
    float ms = 0;
    TANDEM_CUDA_CHECK(cudaEventElapsedTime(&ms, start.event_, event_));
    return 1e3 * ms;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace tandem::kernels
