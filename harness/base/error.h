// The one exception tree. Everything below `main` throws one of these; only `main` turns them into an exit code
// (exit_code_of). A wrong result is a value (record status `invalid`), never an exception.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

namespace tandem {

/// Process exit codes shared by every command (README, "Exit codes").
enum class ExitCode : int {
  kGood = 0,      ///< at least one case measured, nothing wrong
  kFailed = 1,    ///< something is invalid, failed, missing or slower, or the run could not be written
  kUsage = 2,     ///< bad flag, bad spec, or nothing comparable
  kNoDevice = 3,  ///< no usable device
  kNotEnoughEvidence = 4,  ///< gate only
  kCrashed = 70,           ///< a program of Tandem's own broke: no answer, where 1 would be read as "slower"
  kInterrupted = 130,      ///< SIGINT or SIGTERM, as a shell says it
};
/// The same for the foot of a --help.
inline constexpr const char* kExitCodes =
    "Exit codes: 0 good, 1 something is invalid, failed, missing or slower, 2 usage or nothing comparable, "
    "3 no usable device, 4 not enough evidence to say (duet), 70 crashed, 130 interrupted.";

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  virtual ExitCode exit_code() const { return ExitCode::kFailed; }
};

/// A flag, axis, sweep file, config or other input that is wrong. The message names the field and what is allowed.
class UsageError : public Error {
 public:
  using Error::Error;
  ExitCode exit_code() const override { return ExitCode::kUsage; }
};

/// Axis values that are each valid but cannot go together (heads not divisible by tp). In a sweep: a skipped case.
class ImpossibleCase : public UsageError {
 public:
  using UsageError::UsageError;
};

/// No device, or one that cannot do what was asked.
class DeviceError : public Error {
 public:
  using Error::Error;
  ExitCode exit_code() const override { return ExitCode::kNoDevice; }
};

/// What was measured does not tell.
class NotEnoughEvidence : public Error {
 public:
  using Error::Error;
  ExitCode exit_code() const override { return ExitCode::kNotEnoughEvidence; }
};

/// A file could not be read or written (errno text included).
class IoError : public Error {
 public:
  using Error::Error;
};

/// A CUDA, cuBLAS, NCCL or CUPTI call failed.
class CudaError : public Error {
 public:
  CudaError(const std::string& what, int code) : Error(what), code_(code) {}
  int code() const { return code_; }

 private:
  int code_;
};

/// An allocation failed; says how much was asked of which memory level.
class OutOfMemory : public Error {
 public:
  OutOfMemory(int64_t bytes, std::string level)
      : Error("out of memory: " + std::to_string(bytes) + " bytes asked of " + level),
        bytes_(bytes),
        level_(std::move(level)) {}
  int64_t bytes() const { return bytes_; }
  const std::string& level() const { return level_; }

 private:
  int64_t bytes_;
  std::string level_;
};

}  // namespace tandem
