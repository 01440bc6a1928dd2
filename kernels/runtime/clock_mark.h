// The SM clock as the card itself counts it: cycles of one SM over the nanoseconds of the global timer.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <optional>

namespace tandem::kernels {

class ClockMark {
 public:
  /// What one tiny kernel reads.
  struct Reading {
    uint64_t cycles = 0, ns = 0;
    uint32_t sm = 0;
  };

  ClockMark();
  ~ClockMark();
  ClockMark(const ClockMark&) = delete;
  ClockMark& operator=(const ClockMark&) = delete;

  /// Waits for what `stream` holds, reads the counters, and gives the mean clock in MHz since the last call. Absent on the
  /// first call, when the two readings were made on different SMs, and over less than kLeast_us.
  std::optional<double> mark(cudaStream_t stream);

  /// Under this the step of the global timer (about a microsecond) is no longer small beside 0.5 %.
  static constexpr double kLeast_us = 500;

 private:
  Reading* now_ = nullptr;  ///< page-locked, written by the device
  std::optional<Reading> last_;
};

}  // namespace tandem::kernels
