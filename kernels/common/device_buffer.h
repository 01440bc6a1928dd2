// Device memory that a search, a measurement or a test owns for its own life. Engines allocate through
// harness/memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"

namespace tandem::kernels {

class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  /// Throws OutOfMemory when the device has no room, CudaError otherwise.
  explicit DeviceBuffer(int64_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    const cudaError_t status = cudaMalloc(&data_, static_cast<size_t>(bytes));
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw OutOfMemory(bytes, "gpu");
    }
    TANDEM_CUDA_CHECK(status);
  }
  ~DeviceBuffer() {
    if (data_ != nullptr) TANDEM_CUDA_WARN(cudaFree(data_));
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  /// Copies `host` into a new buffer, synchronously.
  template <typename T>
  static DeviceBuffer of(const std::vector<T>& host) {
    DeviceBuffer buffer(static_cast<int64_t>(host.size() * sizeof(T)));
    if (!host.empty()) {
      TANDEM_CUDA_CHECK(
          cudaMemcpy(buffer.data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
    }
    return buffer;
  }
  /// The content as a host vector; waits for the whole device first.
  template <typename T>
  std::vector<T> to_host() const {
    std::vector<T> host(static_cast<size_t>(bytes_) / sizeof(T));
    TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
    if (!host.empty()) {
      TANDEM_CUDA_CHECK(cudaMemcpy(host.data(), data_, host.size() * sizeof(T), cudaMemcpyDeviceToHost));
    }
    return host;
  }

  template <typename T = void>
  T* data() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace tandem::kernels
