// The interface of the three memory levels. The lower ones stand behind the upper: a CachingResource (Level-2) holds blocks
// of a GpuResource (the driver's allocator); the Level-1 cache holds host files that both engines read weights from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

namespace tandem {

struct MemoryStats {
  int64_t current_bytes = 0;   ///< handed out now
  int64_t peak_bytes = 0;      ///< most handed out at once
  int64_t reserved_bytes = 0;  ///< held from the level below, handed out or not
  int64_t upstream_calls = 0;  ///< calls of the level below (allocate and deallocate)
};

/// Allocations are aligned to kMemoryAlignment and of any size over 0. Not thread-safe: one thread an engine.
class MemoryResource {
 public:
  virtual ~MemoryResource() = default;
  /// Throws OutOfMemory naming bytes and level; the counters are then as before the call.
  virtual void* allocate(int64_t bytes) = 0;
  /// `bytes` as allocated. Never throws.
  virtual void deallocate(void* block, int64_t bytes) noexcept = 0;
  virtual std::string_view level() const = 0;  ///< "GPU memory", "Level-2 cache", "host memory"
  virtual MemoryStats stats() const = 0;
};
inline constexpr int64_t kMemoryAlignment = 256;

/// A block that returns itself.
class MemoryBlock {
 public:
  MemoryBlock() = default;
  MemoryBlock(MemoryResource& resource, int64_t bytes)
      : resource_(&resource), data_(bytes > 0 ? resource.allocate(bytes) : nullptr), bytes_(bytes) {}
  ~MemoryBlock() { reset(); }
  MemoryBlock(MemoryBlock&& other) noexcept { swap(other); }
  MemoryBlock& operator=(MemoryBlock&& other) noexcept {
    swap(other);
    return *this;
  }
  void reset() noexcept {
    if (data_ != nullptr) resource_->deallocate(data_, bytes_);
    data_ = nullptr;
    bytes_ = 0;
  }
  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  void swap(MemoryBlock& other) noexcept {
    std::swap(resource_, other.resource_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  MemoryResource* resource_ = nullptr;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

/// Counters that every level keeps alike.
class MemoryCounters {
 public:
  void allocated(int64_t bytes) {
    stats_.current_bytes += bytes;
    if (stats_.current_bytes > stats_.peak_bytes) stats_.peak_bytes = stats_.current_bytes;
  }
  void deallocated(int64_t bytes) { stats_.current_bytes -= bytes; }
  void reserved(int64_t bytes) {
    stats_.reserved_bytes += bytes;
    ++stats_.upstream_calls;
  }
  const MemoryStats& stats() const { return stats_; }

 private:
  MemoryStats stats_;
};

/// Aligned host memory. Level "host memory".
std::unique_ptr<MemoryResource> make_host_resource();

}  // namespace tandem
