// How long a rank's meetings with the others take.
#pragma once

#include <chrono>
#include <cstdint>
#include <utility>

#include "harness/parallel/communicator.h"

namespace tandem::reference {

/// Another communicator, with a clock.
class TimedCommunicator : public Communicator {
 public:
  explicit TimedCommunicator(Communicator& ranks) : ranks_(ranks) {}

  /// Microseconds of all operations since the last call.
  double take_us() { return std::exchange(spent_us_, 0); }

  int rank() const override { return ranks_.rank(); }
  int size() const override { return ranks_.size(); }
  void all_reduce_sum(void* data, int64_t count, DType dtype, void* stream) override {
    timed([&] { ranks_.all_reduce_sum(data, count, dtype, stream); });
  }
  void all_gather(const void* mine, void* all, int64_t bytes, void* stream) override {
    timed([&] { ranks_.all_gather(mine, all, bytes, stream); });
  }
  void broadcast(void* data, int64_t bytes, int root, void* stream) override {
    timed([&] { ranks_.broadcast(data, bytes, root, stream); });
  }
  void barrier(void* stream) override {
    timed([&] { ranks_.barrier(stream); });
  }

 private:
  template <typename Operation>
  void timed(Operation&& operation) {
    const auto start = std::chrono::steady_clock::now();
    operation();
    spent_us_ += std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
  }

  Communicator& ranks_;
  double spent_us_ = 0;
};

}  // namespace tandem::reference
