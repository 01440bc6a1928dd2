// The Level-1 cache: one per host and run, shared by all workers. Weights are made, read, quantised or pruned once, in the
// form they are uploaded in, and kept as files in shared memory under the SHA-256 of their key.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace tandem {

/// A read-only mapping of one cached object; unmapped with the last reference.
class Level1Object {
 public:
  Level1Object() = default;
  Level1Object(void* data, int64_t bytes) : data_(data), bytes_(bytes) {}
  ~Level1Object();
  Level1Object(Level1Object&& other) noexcept { swap(other); }
  Level1Object& operator=(Level1Object&& other) noexcept {
    swap(other);
    return *this;
  }
  const void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void swap(Level1Object& other) noexcept;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

class Level1Cache {
 public:
  struct Options {
    std::string run_dir;    ///< names the cache, and holds it where there is no shared memory
    int64_t cap_bytes = 0;  ///< 0: 24 GiB or what the shared file system has free, whichever is less
    std::string shared_dir = "/dev/shm";
  };
  /// Uses a folder of its own in shared_dir, or in run_dir where that cannot be made. Throws IoError when neither can.
  explicit Level1Cache(const Options& options);

  /// The object of `key`, of exactly `bytes`. The first process that asks makes it (`fill`) under a lock; the others wait
  /// and map it. Throws OutOfMemory over the cap, IoError when the file cannot be made. A maker that died leaves nothing
  /// that others would take for whole.
  Level1Object get(const std::string& key, int64_t bytes,
                   const std::function<void(std::span<std::byte>)>& fill);

  const std::string& directory() const { return directory_; }
  int64_t cap_bytes() const { return cap_bytes_; }
  /// Bytes of whole objects now.
  int64_t used_bytes() const;

  /// Removes the cache of one run: what the driver does at its end. Never throws.
  static void remove(const Options& options) noexcept;
  /// Removes caches whose owner is dead: the driver (TANDEM_DRIVER_PID) or, without one, the process that made them.
  /// Returns how many.
  static int remove_leftovers(const std::string& shared_dir = "/dev/shm") noexcept;

 private:
  std::string directory_;
  int64_t cap_bytes_ = 0;
};

}  // namespace tandem
