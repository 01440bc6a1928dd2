#include "harness/sweep/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/base/sha256.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

constexpr uintmax_t kRememberFromBytes = 16u << 20;

/// What tells that a file is still the one that was hashed.
std::string stamp(const fs::path& path) {
  struct stat s {};
  if (::stat(path.c_str(), &s) != 0)
    throw IoError(fmt::format("{}: {}", path.string(), std::strerror(errno)));
  return fmt::format("{} {}.{:09} {}", s.st_size, s.st_mtim.tv_sec, s.st_mtim.tv_nsec, s.st_ino);
}

nlohmann::json load_digests(const fs::path& file) {
  std::ifstream in(file);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  nlohmann::json j = parse_json_or_discard(text);
  return j.is_object() ? j : nlohmann::json::object();
}

std::string big_file_sha256(const fs::path& path) {
  const fs::path cache = user_cache_dir();
  if (cache.empty()) return sha256_file_hex(path);
  const std::string key = fs::absolute(path).lexically_normal().string();
  const std::string now = stamp(path);
  const fs::path file = cache / "digests.json";
  const nlohmann::json known = load_digests(file);
  if (const auto it = known.find(key);
      it != known.end() && it->is_object() && it->value("stamp", "") == now) {
    return it->value("sha256", "");
  }
  const std::string hash = sha256_file_hex(path);
  try {
    nlohmann::json digests = load_digests(file);
    digests[key] = {{"stamp", now}, {"sha256", hash}};
    fs::create_directories(cache);
    write_file_atomic(file, digests.dump(1) + "\n");
  } catch (const std::exception&) {
    // A cache that cannot be written costs time only.
  }
  return hash;
}

std::string file_sha256(const fs::path& path) {
  std::error_code ec;
  const uintmax_t size = fs::file_size(path, ec);
  if (ec) throw IoError(fmt::format("{}: {}", path.string(), ec.message()));
  return size >= kRememberFromBytes ? big_file_sha256(path) : sha256_file_hex(path);
}

std::string folder_sha256(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const fs::path& p = entry.path();
    const bool settings = p.filename() == "config.json" || p.filename() == "generation_config.json" ||
                          p.filename() == "model.safetensors.index.json";
    if (settings || p.extension() == ".safetensors") files.push_back(p);
  }
  if (files.empty()) throw IoError(fmt::format("{}: no config.json or *.safetensors in it", folder.string()));
  std::sort(files.begin(), files.end());
  std::string listing;
  for (const fs::path& p : files) listing += fmt::format("{} {}\n", file_sha256(p), p.filename().string());
  return sha256_hex(listing);
}

}  // namespace

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw IoError(fmt::format("cannot read {}: {}", path.string(), std::strerror(errno)));
  std::ostringstream text;
  text << in.rdbuf();
  if (in.bad()) throw IoError(fmt::format("cannot read {}: {}", path.string(), std::strerror(errno)));
  return std::move(text).str();
}

void write_file_atomic(const fs::path& path, std::string_view content) {
  const std::string temporary = fmt::format("{}.{}.tmp", path.string(), ::getpid());
  auto fail = [&](int error) {
    ::unlink(temporary.c_str());
    throw IoError(fmt::format("cannot write {}: {}", path.string(), std::strerror(error)));
  };
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) fail(errno);
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t n = ::write(fd, content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int error = errno;
      ::close(fd);
      fail(error);
    }
    done += static_cast<size_t>(n);
  }
  const bool synced = ::fsync(fd) == 0;
  const int error = errno;
  ::close(fd);
  if (!synced) fail(error);
  if (::rename(temporary.c_str(), path.c_str()) != 0) fail(errno);
}

fs::path user_cache_dir() {
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg != nullptr && *xdg != 0)
    return fs::path(xdg) / "tandem";
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != 0)
    return fs::path(home) / ".cache" / "tandem";
  return {};
}

std::string content_sha256(const fs::path& path) {
  static std::mutex mutex;
  static std::map<std::string, std::string> known;
  const std::string key = fs::absolute(path).lexically_normal().string();
  const std::lock_guard lock(mutex);
  if (const auto it = known.find(key); it != known.end()) return it->second;
  return known[key] = fs::is_directory(path) ? folder_sha256(path) : file_sha256(path);
}

}  // namespace tandem
