#include <cstdlib>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "harness/memory/memory_resource.h"

namespace tandem {
namespace {

class HostResource : public MemoryResource {
 public:
  void* allocate(int64_t bytes) override {
    void* block = bytes > 0 ? std::aligned_alloc(kMemoryAlignment,
                                                 static_cast<size_t>(round_up(bytes, kMemoryAlignment)))
                            : nullptr;
    if (block == nullptr) throw OutOfMemory(bytes, "host memory");
    counters_.reserved(bytes);
    counters_.allocated(bytes);
    return block;
  }
  void deallocate(void* block, int64_t bytes) noexcept override {
    std::free(block);
    counters_.reserved(-bytes);
    counters_.deallocated(bytes);
  }
  std::string_view level() const override { return "host memory"; }
  MemoryStats stats() const override { return counters_.stats(); }

 private:
  MemoryCounters counters_;
};

}  // namespace

std::unique_ptr<MemoryResource> make_host_resource() {
  return std::make_unique<HostResource>();
}

}  // namespace tandem
