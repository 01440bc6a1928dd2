// Child processes that die with the driver, read line by line, with a time-out that starts anew at every line.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "harness/base/error.h"

namespace tandem {

/// SIGINT or SIGTERM arrived.
class Interrupted : public Error {
 public:
  using Error::Error;
  ExitCode exit_code() const override { return ExitCode::kInterrupted; }
};

/// From now on SIGINT and SIGTERM set a flag and wake run_process. SIGPIPE and SIGXFSZ are ignored: writing says what is
/// wrong.
void catch_interrupts();
bool interrupted();

struct ProcessOptions {
  std::vector<std::string> command;
  /// Each whole line of stdout, without its newline. What it throws kills the process and comes out of run_process.
  std::function<void(const std::string&)> on_line;
  /// Seconds until the next line (or the end) must come. Asked at the start and after every line.
  std::function<double()> allowed_s;
};

struct ProcessEnd {
  enum class How : unsigned char { kExited, kSignalled, kTimedOut, kInterrupted } how = How::kExited;
  int code = 0;      ///< exit code or signal
  std::string talk;  ///< the end of stderr, at most kTalkBytes

  bool clean() const { return how == How::kExited && code == 0; }
  /// "killed by SIGSEGV", "exited with code 3", "printed nothing for 60 s".
  std::string describe() const;
  double waited_s = 0;  ///< kTimedOut: the time-out
};
inline constexpr size_t kTalkBytes = 2000;

/// Runs a command in a process group of its own, killed (with the group) when this process dies, at a time-out or at an
/// interrupt. stdin is empty. Throws IoError when it cannot be started.
ProcessEnd run_process(const ProcessOptions& options);

/// A process beside this one, in its process group: what kills the group kills it, and it dies with this process and with this
/// object. stdin is empty; what it prints goes where this process's stderr goes.
class Companion {
 public:
  /// `environment`: set in it, beside what this process has. Throws IoError when it cannot be started.
  Companion(const std::vector<std::string>& command, const std::map<std::string, std::string>& environment);
  ~Companion();
  Companion(Companion&& other) noexcept;
  Companion& operator=(Companion&&) = delete;

  int pid() const { return pid_; }
  /// How it ended; absent while it runs.
  std::optional<ProcessEnd> end();

 private:
  int pid_ = -1;
  std::optional<ProcessEnd> end_;
};

/// The first executable file of this name in PATH (in `also`, a list like it, after it); absent where there is none.
std::optional<std::string> program_on_path(const std::string& name, const std::string& also = {});

/// Seconds of a steady clock.
double steady_s();

}  // namespace tandem
