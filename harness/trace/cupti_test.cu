// The tracer on a card, against work whose times are known: kernels that spin until a moment of the device's clock. CUPTI can be
// opened once in a process, so ctest runs each test in its own.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <thread>

#include "harness/base/cuda_check.h"
#include "harness/trace/tracer.h"

namespace tandem {
namespace {

constexpr double kUs = 1e3;  // nanoseconds

__device__ unsigned long long now() {
  unsigned long long t;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
  return t;
}

/// Writes its start to *begin unless it is there already, and spins until that moment plus `ns`.
__global__ void spin_kernel(unsigned long long* begin, unsigned long long ns) {
  if (*begin == 0) *begin = now();
  const unsigned long long until = *begin + ns;
  while (now() < until) {
  }
}

/// Waits until another kernel has written *begin, writes its own start to begin[1], then spins until that moment plus `ns`.
__global__ void follow_kernel(volatile unsigned long long* begin, unsigned long long ns) {
  begin[1] = now();
  while (*begin == 0) {
  }
  const unsigned long long until = *begin + ns;
  while (now() < until) {
  }
}

__global__ void planted_kernel(unsigned long long ns) {
  const unsigned long long until = now() + ns;
  while (now() < until) {
  }
}

bool near(double got, double want) {
  return std::abs(got - want) <= std::max(0.02 * want, 10 * kUs);
}

class CuptiTest : public testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    tracer_ = load_tracer(options_);
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
      cudaGetLastError();
      tracer_.reset();
      GTEST_SKIP() << "no CUDA device";
    }
    if (!tracer_->unavailable().empty()) GTEST_SKIP() << "no profiler here: " << tracer_->unavailable();
    TANDEM_CUDA_CHECK(cudaStreamCreateWithFlags(&a_, cudaStreamNonBlocking));
    TANDEM_CUDA_CHECK(cudaStreamCreateWithFlags(&b_, cudaStreamNonBlocking));
    TANDEM_CUDA_CHECK(cudaMalloc(&begin_, 2 * sizeof *begin_));
    // Loads every kernel: a lazy load inside the trace would be host time.
    clear();
    spin_kernel<<<1, 1, 0, a_>>>(begin_, 1000);
    follow_kernel<<<1, 1, 0, a_>>>(begin_, 1000);
    planted_kernel<<<1, 1, 0, a_>>>(1000);
    TANDEM_CUDA_CHECK(cudaGetLastError());
    TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
  }
  void TearDown() override {
    if (begin_ != nullptr) TANDEM_CUDA_WARN(cudaFree(begin_));
    if (a_ != nullptr) TANDEM_CUDA_WARN(cudaStreamDestroy(a_));
    if (b_ != nullptr) TANDEM_CUDA_WARN(cudaStreamDestroy(b_));
  }
  void clear() {
    TANDEM_CUDA_CHECK(cudaMemset(begin_, 0, 2 * sizeof *begin_));
    TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
  }
  std::vector<Activity> kernels(const Trace& trace) {
    std::vector<Activity> found;
    for (const Activity& a : trace.activities) {
      if (a.kind == ActivityKind::kKernel) found.push_back(a);
    }
    return found;
  }

  TracerOptions options_;
  std::unique_ptr<Tracer> tracer_;
  cudaStream_t a_ = nullptr, b_ = nullptr;
  unsigned long long* begin_ = nullptr;
};

constexpr Phase kPhase{PhaseKind::kFfnUp, Side::kDecoder, 3};

// Breaks when overlapping work on two streams is counted twice or cut, or a sleep of the host is lost.
TEST_F(CuptiTest, KnownOverlapAndKnownSleepAreRecovered) {
  clear();
  tracer_->start();
  spin_kernel<<<1, 1, 0, a_>>>(begin_, 400000);
  follow_kernel<<<1, 1, 0, b_>>>(begin_, 600000);
  TANDEM_CUDA_CHECK(cudaGetLastError());
  TANDEM_CUDA_CHECK(cudaStreamSynchronize(a_));
  TANDEM_CUDA_CHECK(cudaStreamSynchronize(b_));
  const auto idle = std::chrono::steady_clock::now();
  std::this_thread::sleep_for(std::chrono::milliseconds(3));
  const double slept =
      std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - idle).count();
  planted_kernel<<<1, 1, 0, a_>>>(100000);
  TANDEM_CUDA_CHECK(cudaGetLastError());
  TANDEM_CUDA_CHECK(cudaStreamSynchronize(a_));
  const Trace trace = tracer_->stop();
  EXPECT_TRUE(trace.complete());
  const std::vector<Activity> found = kernels(trace);
  ASSERT_EQ(found.size(), 3u);
  const std::vector<Activity> pair(found.begin(), found.begin() + 2);
  unsigned long long started[2] = {};
  TANDEM_CUDA_CHECK(cudaMemcpy(started, begin_, sizeof started, cudaMemcpyDeviceToHost));
  const double late = static_cast<double>(started[1]) - static_cast<double>(started[0]);
  const double busy = static_cast<double>(busy_ns(pair));
  EXPECT_TRUE(near(busy, 600000 - std::min(0.0, late))) << busy << " " << late;
  double both = 0;
  for (const Activity& a : pair) both += static_cast<double>(a.end_ns - a.start_ns);
  EXPECT_TRUE(near(both - busy, 400000 - std::max(0.0, late))) << both - busy << " " << late;

  // The host's part of the gap: until the call that ends it.
  ASSERT_EQ(gaps(found).size(), 1u);
  const Gap gap = gaps(found)[0];
  int64_t call_ns = gap.end_ns;
  for (const HostSpan& call : trace.calls) {
    if (call.correlation == found[2].correlation) call_ns = std::min(call_ns, call.start_ns);
  }
  EXPECT_TRUE(near(static_cast<double>(call_ns - gap.start_ns), slept))
      << call_ns - gap.start_ns << " " << slept;
}

// Breaks when nodes lose the phase they were captured in, a kernel without a phase hides, or replays lose records.
TEST_F(CuptiTest, NodesKeepTheirPhaseAndOrphansShow) {
  constexpr int kReplays = 20;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  TANDEM_CUDA_CHECK(cudaStreamBeginCapture(a_, cudaStreamCaptureModeThreadLocal));
  {
    const PhaseRange range(kPhase);
    spin_kernel<<<1, 1, 0, a_>>>(begin_, 1000);
    TANDEM_CUDA_CHECK(cudaMemsetAsync(begin_, 0, sizeof *begin_, a_));
  }
  planted_kernel<<<1, 1, 0, a_>>>(50000);
  TANDEM_CUDA_CHECK(cudaStreamEndCapture(a_, &graph));
  TANDEM_CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
  TANDEM_CUDA_CHECK(cudaGraphDestroy(graph));
  tracer_->start();
  for (int i = 0; i < kReplays; ++i) TANDEM_CUDA_CHECK(cudaGraphLaunch(exec, a_));
  const Trace trace = tracer_->stop();
  TANDEM_CUDA_CHECK(cudaGraphExecDestroy(exec));
  EXPECT_TRUE(trace.complete()) << trace.dropped << " " << trace.untimed << " " << trace.missing;
  ASSERT_EQ(trace.activities.size(), 3u * kReplays);
  int64_t orphans_ns = 0;
  for (const Activity& a : trace.activities) {
    EXPECT_EQ(a.graph_nodes, 3);
    const bool planted = a.name.find("planted_kernel") != std::string::npos;
    EXPECT_EQ(a.phase.has_value(), !planted) << a.name;
    if (a.phase) EXPECT_EQ(*a.phase, kPhase);
    if (planted) orphans_ns += a.end_ns - a.start_ns;
  }
  EXPECT_TRUE(near(static_cast<double>(orphans_ns), 50000.0 * kReplays)) << orphans_ns;

  // Without a graph: the launch itself lies in the phase.
  tracer_->start();
  {
    const PhaseRange range(kPhase);
    planted_kernel<<<1, 1, 0, a_>>>(1000);
  }
  planted_kernel<<<1, 1, 0, a_>>>(1000);
  const Trace eager = tracer_->stop();
  ASSERT_EQ(eager.activities.size(), 2u);
  EXPECT_EQ(eager.activities[0].phase, kPhase);
  EXPECT_FALSE(eager.activities[1].phase);
}

class StarvedCupti : public CuptiTest {
 protected:
  StarvedCupti() { options_ = {.level = TraceLevel::kNode, .buffer_bytes = 16 << 10, .buffers = 1}; }
};

// Breaks when a trace that ran out of room calls itself complete.
TEST_F(StarvedCupti, StarvedBuffersAreCounted) {
  tracer_->start();
  for (int i = 0; i < 2000; ++i) planted_kernel<<<1, 1, 0, a_>>>(10);
  TANDEM_CUDA_CHECK(cudaGetLastError());
  const Trace trace = tracer_->stop();
  EXPECT_GT(trace.dropped, 0);
  EXPECT_FALSE(trace.complete());
  EXPECT_LT(trace.activities.size(), 2000u);
}

}  // namespace
}  // namespace tandem
