// GPU memory: the driver's allocator of one device. Slow, exact. Only builds with CUDA have it.
#pragma once

#include <memory>

#include "harness/memory/memory_resource.h"

namespace tandem {

/// Allocates with cudaMalloc on `device`. Level "GPU memory".
std::unique_ptr<MemoryResource> make_gpu_resource(int device);

/// Page-locks a mapped host range for the life of the guard, so that copies from it run at full speed. Where the system
/// refuses, the range stays pageable and locked() is false.
class PageLock {
 public:
  PageLock(void* data, int64_t bytes);
  ~PageLock();
  PageLock(const PageLock&) = delete;
  PageLock& operator=(const PageLock&) = delete;
  bool locked() const { return data_ != nullptr; }

 private:
  void* data_ = nullptr;
};

}  // namespace tandem
