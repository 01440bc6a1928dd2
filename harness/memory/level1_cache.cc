#include "harness/memory/level1_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include "harness/base/error.h"
#include "harness/base/sha256.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = "tandem-level1-";
constexpr const char* kOwner = "owner";
constexpr int64_t kDefaultCap = int64_t{24} << 30;

/// A file descriptor that closes itself, and with it any flock on it.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

[[noreturn]] void fail(const std::string& path, const char* what) {
  throw IoError(fmt::format("{}: {}: {}", path, what, std::strerror(errno)));
}

std::string directory_of(const Level1Cache::Options& options, const std::string& parent) {
  const fs::path run = options.run_dir.empty() ? fs::current_path() : fs::absolute(options.run_dir);
  return (fs::path(parent) / (kPrefix + sha256_hex(run.lexically_normal().string()).substr(0, 16))).string();
}

/// The driver if there is one: workers are its children and share what it removes.
pid_t owner_pid() {
  const char* driver = std::getenv("TANDEM_DRIVER_PID");
  return driver != nullptr ? static_cast<pid_t>(std::atol(driver)) : ::getpid();
}

void* map_file(const std::string& path, int64_t bytes, int protection) {
  const Descriptor file(::open(path.c_str(), (protection & PROT_WRITE) != 0 ? O_RDWR : O_RDONLY));
  if (file.get() < 0) fail(path, "cannot open");
  void* data = ::mmap(nullptr, static_cast<size_t>(bytes), protection, MAP_SHARED, file.get(), 0);
  if (data == MAP_FAILED) fail(path, "cannot map");
  return data;
}

}  // namespace

Level1Object::~Level1Object() {
  if (data_ != nullptr) ::munmap(data_, static_cast<size_t>(bytes_));
}

void Level1Object::swap(Level1Object& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
}

Level1Cache::Level1Cache(const Options& options) {
  std::error_code ec;
  directory_ = directory_of(options, options.shared_dir);
  fs::create_directories(directory_, ec);
  if (ec) {
    if (options.run_dir.empty()) throw IoError(fmt::format("{}: {}", directory_, ec.message()));
    directory_ = directory_of(options, options.run_dir);
    fs::create_directories(directory_, ec);
    if (ec) throw IoError(fmt::format("{}: {}", directory_, ec.message()));
  }
  std::ofstream(fs::path(directory_) / kOwner) << owner_pid();
  struct statvfs space {};
  int64_t free_bytes = kDefaultCap;
  if (::statvfs(directory_.c_str(), &space) == 0) {
    free_bytes = static_cast<int64_t>(space.f_bavail) * static_cast<int64_t>(space.f_frsize) + used_bytes();
  }
  cap_bytes_ = std::min(options.cap_bytes > 0 ? options.cap_bytes : kDefaultCap, free_bytes);
}

int64_t Level1Cache::used_bytes() const {
  int64_t used = 0;
  std::error_code ec;
  for (const auto& entry : fs::directory_iterator(directory_, ec)) {
    if (entry.path().extension() == ".object") used += static_cast<int64_t>(entry.file_size(ec));
  }
  return used;
}

Level1Object Level1Cache::get(const std::string& key, int64_t bytes,
                              const std::function<void(std::span<std::byte>)>& fill) {
  const std::string base = (fs::path(directory_) / sha256_hex(fmt::format("{}:{}", bytes, key))).string();
  const std::string path = base + ".object";
  if (!fs::exists(path)) {
    // One lock for the whole cache: the cap is a property of all objects together.
    const std::string lock_path = (fs::path(directory_) / "lock").string();
    const Descriptor lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (lock.get() < 0 || ::flock(lock.get(), LOCK_EX) != 0) fail(lock_path, "cannot lock");
    if (!fs::exists(path)) {
      if (used_bytes() + bytes > cap_bytes_) throw OutOfMemory(bytes, "Level-1 cache");
      const std::string making = base + ".making";  // a maker that died leaves this; the next one starts over
      {
        const Descriptor file(::open(making.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
        if (file.get() < 0) fail(making, "cannot create");
        // Reserves the blocks: writing to a mapping of a full shared file system would be a bus error.
        const int status = ::posix_fallocate(file.get(), 0, bytes);
        if (status == ENOSPC) {
          ::unlink(making.c_str());
          throw OutOfMemory(bytes, "Level-1 cache");
        }
        if (status != 0) {
          errno = status;
          fail(making, "cannot reserve");
        }
      }
      {
        const Level1Object writable(map_file(making, bytes, PROT_READ | PROT_WRITE), bytes);
        fill({static_cast<std::byte*>(const_cast<void*>(writable.data())), static_cast<size_t>(bytes)});
      }
      if (::rename(making.c_str(), path.c_str()) != 0) fail(path, "cannot rename");
    }
  }
  return Level1Object(map_file(path, bytes, PROT_READ), bytes);
}

void Level1Cache::remove(const Options& options) noexcept {
  std::error_code ec;
  fs::remove_all(directory_of(options, options.shared_dir), ec);
  if (!options.run_dir.empty()) fs::remove_all(directory_of(options, options.run_dir), ec);
}

int Level1Cache::remove_leftovers(const std::string& shared_dir) noexcept {
  int removed = 0;
  std::error_code ec;
  for (const auto& entry : fs::directory_iterator(shared_dir, ec)) {
    if (entry.path().filename().string().rfind(kPrefix, 0) != 0) continue;
    long owner = 0;
    std::ifstream(entry.path() / kOwner) >> owner;
    if (owner > 0 && (::kill(static_cast<pid_t>(owner), 0) == 0 || errno == EPERM)) continue;
    if (fs::remove_all(entry.path(), ec) > 0 && !ec) ++removed;
  }
  return removed;
}

}  // namespace tandem
