#include "harness/record/line_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "harness/base/error.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace {

[[noreturn]] void fail(const std::string& path, int error) {
  throw IoError(fmt::format("cannot write {}: {}", path, std::strerror(error)));
}

/// Length of the file up to and with its last newline.
off_t whole_lines(int fd, off_t size) {
  std::array<char, 4096> block;
  while (size > 0) {
    const auto n = std::min<off_t>(size, block.size());
    if (::pread(fd, block.data(), n, size - n) != n) return size;
    for (off_t i = n; i > 0; --i) {
      if (block[i - 1] == '\n') return size - n + i;
    }
    size -= n;
  }
  return 0;
}

/// A new file is only sure to be there after a crash of the machine once its folder is on the disk too.
void sync_folder(const std::string& path) {
  const auto folder = std::filesystem::path(path).parent_path();
  const int fd = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

}  // namespace

LineLog::LineLog(std::string path) : path_(std::move(path)) {
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ < 0) fail(path_, errno);
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    ::close(fd_);
    throw IoError(fmt::format("cannot write {}: another process is writing it", path_));
  }
  struct stat s {};
  if (::fstat(fd_, &s) == 0 && S_ISREG(s.st_mode)) {
    const off_t whole = whole_lines(fd_, s.st_size);
    if (whole != s.st_size && ::ftruncate(fd_, whole) != 0) {
      const int error = errno;
      ::close(fd_);
      fail(path_, error);
    }
    if (s.st_size == 0) sync_folder(path_);
  }
}

LineLog::~LineLog() {
  ::close(fd_);
}

void LineLog::append(std::string_view line) {
  std::string text(line);
  text += '\n';
  struct stat s {};
  const bool regular = ::fstat(fd_, &s) == 0 && S_ISREG(s.st_mode);
  size_t done = 0;
  int error = 0;
  while (done < text.size() && error == 0) {
    const ssize_t n = ::write(fd_, text.data() + done, text.size() - done);
    if (n >= 0) {
      done += static_cast<size_t>(n);
    } else if (errno != EINTR) {
      error = errno;
    }
  }
  if (error == 0 && ::fsync(fd_) != 0 && errno != EINVAL) error = errno;
  if (error == 0) return;
  if (regular && ::ftruncate(fd_, s.st_size) == 0) ::fsync(fd_);
  fail(path_, error);
}

std::string for_each_line(const std::string& path, const std::function<void(int, const std::string&)>& take) {
  const std::string text = read_file(path);
  int number = 0;
  size_t at = 0;
  for (size_t end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    take(++number, text.substr(at, end - at));
  }
  if (at == text.size()) return {};
  return fmt::format("{}:{}: the last line is cut off (a kill or a crash) and left out", path, number + 1);
}

}  // namespace tandem
