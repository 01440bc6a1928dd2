#include "harness/memory/level1_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "harness/base/error.h"
#include "harness/base/sha256.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = "tandem-level1-";
constexpr const char* kOwner = "owner";
constexpr const char* kObject = ".object";
constexpr const char* kMaking = ".making";
constexpr int64_t kDefaultCap = int64_t{24} << 30;
constexpr std::chrono::minutes kUnownedAge{1};

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
long owner_pid() {
  const char* driver = std::getenv("TANDEM_DRIVER_PID");
  return driver != nullptr ? std::atol(driver) : static_cast<long>(::getpid());
}

/// When a process started, in clock ticks since boot (proc(5), field 22 of stat); 0 when it does not run. With the id it
/// names one process for good: ids come round again.
uint64_t start_time(long pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string text;
  std::getline(file, text);
  const size_t name_end = text.rfind(')');  // the name before it may hold spaces and brackets
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(text.substr(name_end + 1));
  std::string skipped;
  for (int field = 3; field < 22; ++field) fields >> skipped;
  uint64_t ticks = 0;
  fields >> ticks;
  return ticks;
}

/// Is the owner of a cache's folder gone? A folder without an owner yet is being made, unless it is old.
bool abandoned(const fs::path& directory) {
  long pid = 0;
  uint64_t started = 0;
  if (std::ifstream(directory / kOwner) >> pid >> started) return started == 0 || start_time(pid) != started;
  std::error_code ec;
  const auto changed = fs::last_write_time(directory, ec);
  return !ec && fs::file_time_type::clock::now() - changed > kUnownedAge;
}

/// Objects whose maker died. Only under the lock: nobody is making one then.
void remove_unfinished(const std::string& directory) {
  std::error_code ec;
  for (const auto& entry : fs::directory_iterator(directory, ec)) {
    if (entry.path().extension() == kMaking) fs::remove(entry.path(), ec);
  }
}

/// Whole or not at all: another process may be looking for leftovers.
void write_owner(const std::string& directory) {
  const std::string path = (fs::path(directory) / kOwner).string();
  const std::string making = fmt::format("{}.{}", path, ::getpid());
  std::ofstream file(making);
  file << owner_pid() << ' ' << start_time(owner_pid()) << '\n';
  file.close();
  if (!file || ::rename(making.c_str(), path.c_str()) != 0) fail(path, "cannot write");
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
  write_owner(directory_);
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
    if (entry.path().extension() == kObject) used += static_cast<int64_t>(entry.file_size(ec));
  }
  return used;
}

Level1Object Level1Cache::get(const std::string& key, int64_t bytes,
                              const std::function<void(std::span<std::byte>)>& fill) {
  if (bytes <= 0) throw OutOfMemory(bytes, "Level-1 cache");
  const std::string base = (fs::path(directory_) / sha256_hex(fmt::format("{}:{}", bytes, key))).string();
  const std::string path = base + kObject;
  if (!fs::exists(path)) {
    // One lock for the whole cache: the cap is a property of all objects together.
    const std::string lock_path = (fs::path(directory_) / "lock").string();
    const Descriptor lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (lock.get() < 0 || ::flock(lock.get(), LOCK_EX) != 0) fail(lock_path, "cannot lock");
    if (!fs::exists(path)) {
      remove_unfinished(directory_);
      if (used_bytes() + bytes > cap_bytes_) throw OutOfMemory(bytes, "Level-1 cache");
      const std::string making = base + kMaking;
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
    if (!abandoned(entry.path())) continue;
    if (fs::remove_all(entry.path(), ec) > 0 && !ec) ++removed;
  }
  return removed;
}

}  // namespace tandem
