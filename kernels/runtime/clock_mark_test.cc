#include "kernels/runtime/clock_mark.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "harness/base/cuda_check.h"
#include "kernels/limits/delay.h"

namespace tandem::kernels {
namespace {

// Breaks when the counters stop while nothing runs, or give something that is no clock: then the warm-up would wait for a
// steadiness that never comes.
TEST(ClockMark, IsAPlausibleClockBusyAndIdle) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) GTEST_SKIP() << "no CUDA device";
  cudaStream_t stream = nullptr;
  TANDEM_CUDA_CHECK(cudaStreamCreate(&stream));
  int most_khz = 0;
  TANDEM_CUDA_CHECK(cudaDeviceGetAttribute(&most_khz, cudaDevAttrClockRate, 0));
  ClockMark clock;
  EXPECT_FALSE(clock.mark(stream)) << "one reading is no clock";
  const auto busy = [&] {
    launch_delay({.ns = 20'000'000}, stream);
    return clock.mark(stream);
  };
  busy();
  const auto one = busy(), two = busy();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const auto idle = clock.mark(stream);
  ASSERT_TRUE(one && two && idle) << "readings on different SMs";
  std::cout << "busy " << *one << " and " << *two << " MHz, idle " << *idle << " MHz, most "
            << most_khz / 1000 << " MHz\n";
  for (const double mhz : {*one, *two, *idle}) {
    EXPECT_GT(mhz, 200);
    EXPECT_LT(mhz, 1.05e-3 * most_khz);
  }
  EXPECT_NEAR(*one, *two, 0.05 * *one);
  EXPECT_FALSE(clock.mark(stream)) << "too short for the step of the timer";
  TANDEM_CUDA_CHECK(cudaStreamDestroy(stream));
}

}  // namespace
}  // namespace tandem::kernels
