#include "harness/base/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "harness/base/text.h"

namespace tandem {
namespace {

constexpr double kExitGrace_s = 0.05;  // between two looks at a process whose pipes a grandchild holds open
constexpr size_t kLongestLine = 64u << 20;

volatile std::sig_atomic_t g_interrupted = 0;
int g_wake[2] = {-1, -1};

void on_interrupt(int) {
  g_interrupted = 1;
  const int saved = errno;
  [[maybe_unused]] const ssize_t n = ::write(g_wake[1], "x", 1);
  errno = saved;
}

struct Pipe {
  int read = -1, write = -1;
  Pipe() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) throw IoError(fmt::format("pipe: {}", std::strerror(errno)));
    read = fds[0];
    write = fds[1];
  }
  ~Pipe() {
    close_write();
    close_read();
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  void close_write() {
    if (write >= 0) ::close(write);
    write = -1;
  }
  void close_read() {
    if (read >= 0) ::close(read);
    read = -1;
  }
};

struct Become {
  char* const* argv = nullptr;
  char* const* environment = nullptr;
  bool own_group = false;
  int out = -1, err = -1;
};

/// In the child, between fork and exec: only async-signal-safe calls.
[[noreturn]] void become(const Become& what, pid_t parent, int failed) {
  if (what.own_group) ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);  // it died before the line above
  const int null = ::open("/dev/null", O_RDONLY);
  ::dup2(null, 0);
  ::dup2(what.out, 1);
  ::dup2(what.err, 2);
  for (const int signal : {SIGINT, SIGTERM, SIGPIPE, SIGXFSZ}) ::signal(signal, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execvpe(what.argv[0], what.argv, what.environment);
  const int error = errno;
  [[maybe_unused]] const ssize_t n = ::write(failed, &error, sizeof(error));
  ::_exit(127);
}

std::vector<char*> pointers(const std::vector<std::string>& words) {
  std::vector<char*> all;
  for (const std::string& word : words) all.push_back(const_cast<char*>(word.c_str()));
  all.push_back(nullptr);
  return all;
}

/// Forks, and returns once the program runs. Throws IoError when it cannot be started.
pid_t start(const std::vector<std::string>& command, Become what) {
  const std::vector<char*> argv = pointers(command);
  what.argv = argv.data();
  Pipe failed;
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) throw IoError(fmt::format("fork: {}", std::strerror(errno)));
  if (pid == 0) become(what, parent, failed.write);
  if (what.own_group) ::setpgid(pid, pid);  // also here, so that a kill right now reaches it
  failed.close_write();
  int error = 0;
  ssize_t n;
  while ((n = ::read(failed.read, &error, sizeof(error))) < 0 && errno == EINTR) {
  }
  if (n != sizeof(error)) return pid;
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  throw IoError(fmt::format("cannot start {}: {}", command[0], std::strerror(error)));
}

/// Kills the group and reaps the child, whatever happens.
class Child {
 public:
  Child(const std::vector<std::string>& command, Pipe& out, Pipe& err)
      : pid_(
            start(command, {.environment = environ, .own_group = true, .out = out.write, .err = err.write})) {
    out.close_write();
    err.close_write();
  }
  ~Child() { kill_and_reap(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// Has it ended? Then its status.
  bool ended(int* status) {
    if (pid_ < 0) return false;
    const pid_t r = ::waitpid(pid_, status, WNOHANG);
    if (r != pid_) return false;
    ::kill(-pid_, SIGKILL);  // what it left behind
    pid_ = -1;
    return true;
  }

  void kill_and_reap() {
    if (pid_ < 0) return;
    ::kill(-pid_, SIGKILL);
    ::kill(pid_, SIGKILL);
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
};

/// Reads what is there. False at the end of the file.
bool read_some(int fd, std::string& into) {
  std::array<char, 65536> block;
  const ssize_t n = ::read(fd, block.data(), block.size());
  if (n < 0) return errno == EINTR || errno == EAGAIN;
  into.append(block.data(), static_cast<size_t>(n));
  return n > 0;
}

class Reader {
 public:
  explicit Reader(const ProcessOptions& options) : options_(options) { rearm(); }

  /// Takes whole lines out of what has come.
  void take_lines() {
    size_t at = 0;
    for (size_t end; (end = out.find('\n', at)) != std::string::npos; at = end + 1) {
      options_.on_line(out.substr(at, end - at));
      rearm();
    }
    out.erase(0, at);
    if (out.size() > kLongestLine) out.clear();
    if (err.size() > 4 * kTalkBytes) err.erase(0, err.size() - 2 * kTalkBytes);
  }

  double allowed_s = 0, deadline = 0;
  std::string out, err;

 private:
  void rearm() {
    allowed_s = options_.allowed_s();
    deadline = steady_s() + allowed_s;
  }
  const ProcessOptions& options_;
};

/// The end of what was said on stderr, from the start of a line on.
std::string last_talk(const std::string& text) {
  std::string talk = text.substr(text.size() - std::min(text.size(), kTalkBytes));
  if (talk.size() < text.size()) talk.erase(0, talk.find('\n') + 1);
  while (!talk.empty() && (talk.back() == '\n' || talk.back() == '\r')) talk.pop_back();
  return talk;
}

ProcessEnd end_of(int status) {
  ProcessEnd end;
  end.how = WIFSIGNALED(status) ? ProcessEnd::How::kSignalled : ProcessEnd::How::kExited;
  end.code = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
  return end;
}

}  // namespace

double steady_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void catch_interrupts() {
  if (g_wake[0] < 0 && ::pipe2(g_wake, O_CLOEXEC | O_NONBLOCK) != 0) {
    throw IoError(fmt::format("pipe: {}", std::strerror(errno)));
  }
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
}

bool interrupted() {
  return g_interrupted != 0;
}

std::string ProcessEnd::describe() const {
  switch (how) {
    case How::kExited:
      return fmt::format("exited with code {}", code);
    case How::kSignalled: {
      const char* name = ::sigabbrev_np(code);
      return name != nullptr ? fmt::format("killed by SIG{}", name)
                             : fmt::format("killed by signal {}", code);
    }
    case How::kTimedOut:
      return fmt::format("printed nothing for {:.3g} s", waited_s);
    case How::kInterrupted:
      return "interrupted";
  }
  return "?";
}

ProcessEnd run_process(const ProcessOptions& options) {
  Pipe out, err;
  Reader reader(options);
  Child child(options.command, out, err);
  ProcessEnd end;
  int status = 0;
  bool out_open = true, err_open = true, over = false;
  while (!over) {
    const double now = steady_s();
    if (interrupted() || now >= reader.deadline) {
      end.how = interrupted() ? ProcessEnd::How::kInterrupted : ProcessEnd::How::kTimedOut;
      end.waited_s = reader.allowed_s;
      child.kill_and_reap();
      break;
    }
    // Once both pipes are closed only the end of the process is left to wait for; before, look for it now and then, as a
    // process that it left behind may hold the pipes open.
    const double wait = std::min(reader.deadline - now, out_open || err_open ? kExitGrace_s : 0.001);
    pollfd fds[3] = {
        {out_open ? out.read : -1, POLLIN, 0}, {err_open ? err.read : -1, POLLIN, 0}, {g_wake[0], POLLIN, 0}};
    ::poll(fds, 3, static_cast<int>(std::ceil(wait * 1000)));
    if (fds[0].revents != 0) out_open = read_some(out.read, reader.out);
    if (fds[1].revents != 0) err_open = read_some(err.read, reader.err);
    reader.take_lines();
    const bool idle = fds[0].revents == 0 && fds[1].revents == 0;
    over = idle && child.ended(&status);
  }
  if (over) end = end_of(status);
  end.talk = last_talk(reader.err);
  return end;
}

Companion::Companion(const std::vector<std::string>& command,
                     const std::map<std::string, std::string>& environment) {
  std::vector<std::string> variables;
  for (char** v = environ; *v != nullptr; ++v) {
    const std::string text = *v;
    if (!environment.contains(text.substr(0, text.find('=')))) variables.push_back(text);
  }
  for (const auto& [name, value] : environment) variables.push_back(fmt::format("{}={}", name, value));
  const std::vector<char*> all = pointers(variables);
  pid_ = start(command, {.environment = all.data(), .out = STDERR_FILENO, .err = STDERR_FILENO});
}

Companion::Companion(Companion&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), end_(std::move(other.end_)) {}

Companion::~Companion() {
  if (pid_ < 0 || end_) return;
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

std::optional<ProcessEnd> Companion::end() {
  int status = 0;
  if (!end_ && ::waitpid(pid_, &status, WNOHANG) == pid_) end_ = end_of(status);
  return end_;
}

std::optional<std::string> program_on_path(const std::string& name, const std::string& also) {
  const char* variable = std::getenv("PATH");
  const std::string folders = (variable != nullptr ? variable : "") + (also.empty() ? "" : ":" + also);
  for (const std::string_view folder : split_text(folders, ':')) {
    const std::string path = (folder.empty() ? "." : std::string(folder)) + "/" + name;
    std::error_code ec;
    if (::access(path.c_str(), X_OK) == 0 && std::filesystem::is_regular_file(path, ec)) return path;
  }
  return std::nullopt;
}

}  // namespace tandem
