// For tests: a block of threads as fibers on one CPU thread. Each runs until the next sync(); between two of them the fibers
// take turns in an order drawn from a seed, so that a missing sync() shows as a result that changes with the seed.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "harness/base/random.h"

namespace tandem::kernels {

class HostBlock {
 public:
  HostBlock(int threads, uint64_t seed)
      : threads_(threads), seed_(seed), fibers_(static_cast<size_t>(threads)) {
    for (Fiber& f : fibers_) f.stack = std::make_unique<char[]>(kStackBytes);
  }
  HostBlock(const HostBlock&) = delete;
  HostBlock& operator=(const HostBlock&) = delete;

  /// Runs body() in every fiber to its end. Throws std::logic_error when some wait at a sync() that others never reach.
  void run(const std::function<void()>& body) {
    body_ = &body;
    for (Fiber& f : fibers_) {
      getcontext(&f.context);
      f.context.uc_stack.ss_sp = f.stack.get();
      f.context.uc_stack.ss_size = kStackBytes;
      f.context.uc_link = &scheduler_;
      const auto self = reinterpret_cast<uintptr_t>(this);
      makecontext(&f.context, reinterpret_cast<void (*)()>(&HostBlock::enter), 2,
                  static_cast<uint32_t>(self >> 32), static_cast<uint32_t>(self));
      f.done = false;
    }
    for (int left = threads_; left > 0;) {
      const int before = left;
      for (const int i : order()) {
        current_ = i;
        swapcontext(&scheduler_, &fibers_[static_cast<size_t>(i)].context);
        if (fibers_[static_cast<size_t>(i)].done) --left;
      }
      if (left != before && left != 0) throw std::logic_error("threads ended at different barriers");
    }
  }

  int thread() const { return current_; }
  int threads() const { return threads_; }
  void sync() { swapcontext(&fibers_[static_cast<size_t>(current_)].context, &scheduler_); }
  uint32_t add(uint32_t* counter, uint32_t value) { return std::exchange(*counter, *counter + value); }
  void set_bits(uint32_t* word, uint32_t bits) { *word |= bits; }

 private:
  static constexpr size_t kStackBytes = 64 << 10;
  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done = false;
  };

  static void enter(uint32_t high, uint32_t low) {
    auto* self = reinterpret_cast<HostBlock*>(static_cast<uintptr_t>(high) << 32 | low);
    (*self->body_)();
    self->fibers_[static_cast<size_t>(self->current_)].done = true;
  }

  std::vector<int> order() {
    std::vector<int> all(static_cast<size_t>(threads_));
    std::iota(all.begin(), all.end(), 0);
    for (size_t i = all.size() - 1; i > 0; --i) {
      std::swap(all[i], all[uniform_below(seed_, rounds_++, static_cast<uint32_t>(i + 1))]);
    }
    return all;
  }

  int threads_;
  uint64_t seed_;
  uint64_t rounds_ = 0;
  int current_ = 0;
  const std::function<void()>* body_ = nullptr;
  ucontext_t scheduler_{};
  std::vector<Fiber> fibers_;
};

}  // namespace tandem::kernels
