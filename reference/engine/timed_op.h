// A workload that times one function on a steady clock.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <utility>

#include "harness/engine/engine.h"
#include "reference/engine/extra_work.h"

namespace tandem::reference {

class TimedOp : public Workload {
 public:
  /// `run` is timed; `prepare`, when given, runs before each repetition and is not.
  explicit TimedOp(std::function<void()> run, std::function<void()> prepare = {})
      : run_(std::move(run)), prepare_(std::move(prepare)) {}

  Repetition repeat() override {
    if (prepare_) prepare_();
    const auto start = std::chrono::steady_clock::now();
    run_();
    extra_.run();
    const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;
    return {.total_us = time.count(), .step_us = {}, .first_token_us = {}};
  }
  bool plant(double amount) override {
    extra_.set(amount);
    return true;
  }
  Output output() override { return {}; }
  int64_t peak_bytes() const override { return peak ? peak() : 0; }
  std::optional<int64_t> planned_bytes() const override { return planned; }

  std::function<int64_t()> peak;
  std::optional<int64_t> planned;

 private:
  std::function<void()> run_, prepare_;
  ExtraWork extra_;
};

}  // namespace tandem::reference
