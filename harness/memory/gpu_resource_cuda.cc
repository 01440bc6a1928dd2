#include "harness/base/cuda_check.h"
#include "harness/memory/gpu_resource.h"

namespace tandem {
namespace {

/// cudaMalloc and cudaFree act on the current device.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    TANDEM_CUDA_WARN(cudaGetDevice(&previous_));
    if (previous_ != device) TANDEM_CUDA_WARN(cudaSetDevice(device));
  }
  ~DeviceScope() { TANDEM_CUDA_WARN(cudaSetDevice(previous_)); }

 private:
  int previous_ = 0;
};

class GpuResource : public MemoryResource {
 public:
  explicit GpuResource(int device) : device_(device) {}

  void* allocate(int64_t bytes) override {
    if (bytes <= 0) throw OutOfMemory(bytes, "GPU memory");  // cudaMalloc of 0 succeeds with a null pointer
    const DeviceScope scope(device_);
    void* block = nullptr;
    const cudaError_t status = cudaMalloc(&block, static_cast<size_t>(bytes));
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw OutOfMemory(bytes, "GPU memory");
    }
    TANDEM_CUDA_CHECK(status);
    counters_.reserved(bytes);
    counters_.allocated(bytes);
    return block;
  }

  void deallocate(void* block, int64_t bytes) noexcept override {
    const DeviceScope scope(device_);
    TANDEM_CUDA_WARN(cudaFree(block));
    counters_.reserved(-bytes);
    counters_.deallocated(bytes);
  }

  std::string_view level() const override { return "GPU memory"; }
  MemoryStats stats() const override { return counters_.stats(); }

 private:
  int device_;
  MemoryCounters counters_;
};

}  // namespace

std::unique_ptr<MemoryResource> make_gpu_resource(int device) {
  return std::make_unique<GpuResource>(device);
}

PageLock::PageLock(void* data, int64_t bytes) {
  if (cudaHostRegister(data, static_cast<size_t>(bytes), cudaHostRegisterReadOnly) == cudaSuccess) {
    data_ = data;
  } else {
    cudaGetLastError();
  }
}

PageLock::~PageLock() {
  if (data_ != nullptr) TANDEM_CUDA_WARN(cudaHostUnregister(data_));
}

}  // namespace tandem
