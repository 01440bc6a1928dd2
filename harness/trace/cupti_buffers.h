// The buffers that CUPTI writes records into: allocated once, zeroed ahead so that CUPTI need not, handed out until there are none.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

namespace tandem::cupti {

class Buffers {
 public:
  struct Filled {
    uint8_t* data;
    size_t bytes;
  };

  Buffers() = default;
  ~Buffers() {
    for (uint8_t* b : all_) std::free(b);
  }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;

  void allocate(size_t bytes, size_t count) {
    bytes_ = bytes;
    for (size_t i = 0; i < count; ++i) {
      void* memory = nullptr;
      if (::posix_memalign(&memory, 4096, bytes) != 0) throw std::bad_alloc();
      std::memset(memory, 0, bytes);
      all_.push_back(static_cast<uint8_t*>(memory));
    }
    free_ = all_;
  }

  /// Null when all are in use: CUPTI then drops records and counts them.
  uint8_t* take(size_t* bytes) {
    const std::lock_guard lock(mutex_);
    *bytes = 0;
    if (free_.empty()) return nullptr;
    uint8_t* buffer = free_.back();
    free_.pop_back();
    *bytes = bytes_;
    return buffer;
  }
  void put(uint8_t* buffer, size_t valid) {
    const std::lock_guard lock(mutex_);
    filled_.push_back({buffer, valid});
  }
  /// What was filled so far, in the order of completion. The buffers stay in use until recycle().
  std::vector<Filled> filled() {
    const std::lock_guard lock(mutex_);
    return filled_;
  }
  void recycle() {
    const std::lock_guard lock(mutex_);
    for (const Filled& f : filled_) {
      std::memset(f.data, 0, bytes_);
      free_.push_back(f.data);
    }
    filled_.clear();
  }

 private:
  std::mutex mutex_;
  size_t bytes_ = 0;
  std::vector<uint8_t*> all_, free_;
  std::vector<Filled> filled_;
};

}  // namespace tandem::cupti
