// A stream's work as an executable CUDA graph.
#pragma once

#include <cuda_runtime_api.h>

#include <utility>

#include "harness/base/cuda_check.h"

namespace tandem::kernels {

/// Captures what `work()` enqueues on `stream`, which must not be the default stream. Every kernel in it must have run once
/// before: loading one inside a capture is not allowed. The caller destroys the graph. Throws CudaError, and what `work`
/// throws after ending the capture.
template <typename Work>
cudaGraphExec_t capture(cudaStream_t stream, Work&& work) {
  cudaGraph_t graph = nullptr;
  TANDEM_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  try {
    std::forward<Work>(work)();
  } catch (...) {
    TANDEM_CUDA_WARN(cudaStreamEndCapture(stream, &graph));
    if (graph != nullptr) TANDEM_CUDA_WARN(cudaGraphDestroy(graph));
    cudaGetLastError();  // clears what ended the capture; the exception tells it
    throw;
  }
  TANDEM_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t exec = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&exec, graph, 0);
  TANDEM_CUDA_WARN(cudaGraphDestroy(graph));
  TANDEM_CUDA_CHECK(status);
  return exec;
}

}  // namespace tandem::kernels
