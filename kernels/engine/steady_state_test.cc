// What the host asks of the driver while tokens are generated, seen by CUPTI's callbacks: nothing but launches.
#include <cuda_runtime_api.h>
#include <cupti.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <iterator>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harness/base/cuda_check.h"
#include "kernels/engine/engine_test_util.h"

namespace tandem::kernels {
namespace {

constexpr std::string_view kGraphLaunch = "cudaGraphLaunch";

/// Beginnings of names; a version or a `_v2` may follow. Host memory counts: pinning it stops the device, too. A graph and
/// a module take device memory when they are made.
constexpr std::array<std::string_view, 22> kAllocations = {
    "cudaMalloc",       "cudaFree",        "cudaHostAlloc", "cudaHostRegister", "cudaHostUnregister",
    "cudaMemPool",      "cuMemAlloc",      "cuMemFree",     "cuMemHostAlloc",   "cuMemHostRegister",
    "cuMemHostUnregis", "cuMemCreate",     "cuMemMap",      "cuMemUnmap",       "cuMemRelease",
    "cuMemAddress",     "cuMemPoolCreate", "cuArrayCreate", "cudaGraphInst",    "cuGraphInst",
    "cuModuleLoad",     "cuLibraryLoad"};
/// A query is a wait to whoever asks in a loop.
constexpr std::array<std::string_view, 10> kWaits = {
    "cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize", "cudaStreamQuery",
    "cudaEventQuery",        "cuCtxSynchronize",      "cuStreamSynchronize",  "cuEventSynchronize",
    "cuStreamQuery",         "cuEventQuery"};

bool begins_with_one_of(std::string_view name, std::span<const std::string_view> beginnings) {
  return std::any_of(beginnings.begin(), beginnings.end(),
                     [&](std::string_view b) { return name.starts_with(b); });
}

bool allocates(std::string_view name) {
  return begins_with_one_of(name, kAllocations);
}

/// Copies and fills wait for the device unless they are asynchronous.
bool waits(std::string_view name) {
  const bool moves = name.starts_with("cudaMemcpy") || name.starts_with("cudaMemset") ||
                     name.starts_with("cuMemcpy") || name.starts_with("cuMemset");
  return begins_with_one_of(name, kWaits) || (moves && name.find("Async") == std::string_view::npos);
}

/// Names of the calls of runtime and driver in the order in which they were entered, while it records.
class Calls {
 public:
  void add(const char* name) {
    const std::lock_guard lock(mutex_);
    if (recording_) names_.emplace_back(name);
  }
  template <typename Work>
  std::vector<std::string> during(Work&& work) {
    set(true);
    work();
    set(false);
    return std::exchange(names_, {});
  }

 private:
  void set(bool recording) {
    const std::lock_guard lock(mutex_);
    recording_ = recording;
  }
  std::mutex mutex_;
  bool recording_ = false;
  std::vector<std::string> names_;
};

void CUPTIAPI on_call(void* calls, CUpti_CallbackDomain domain, CUpti_CallbackId, const void* data) {
  if (domain != CUPTI_CB_DOMAIN_RUNTIME_API && domain != CUPTI_CB_DOMAIN_DRIVER_API) return;
  const auto& call = *static_cast<const CUpti_CallbackData*>(data);
  if (call.callbackSite == CUPTI_API_ENTER && call.functionName != nullptr)
    static_cast<Calls*>(calls)->add(call.functionName);
}

/// From the first launch of a graph to the last.
struct Window {
  int launches = 0;
  std::vector<std::string> allocations;
  std::vector<std::string> waits;
};

Window window_of(const std::vector<std::string>& calls) {
  const auto launch = [](const std::string& name) { return name.starts_with(kGraphLaunch); };
  const auto first = std::find_if(calls.begin(), calls.end(), launch);
  const auto last = std::find_if(calls.rbegin(), calls.rend(), launch).base();
  Window w{.launches = static_cast<int>(std::count_if(calls.begin(), calls.end(), launch)),
           .allocations = {},
           .waits = {}};
  if (first == calls.end()) return w;
  std::copy_if(first, last, std::back_inserter(w.allocations), allocates);
  std::copy_if(first, last, std::back_inserter(w.waits), waits);
  return w;
}

class SteadyState : public testing::Test {
 protected:
  void SetUp() override {
    // Not asked of CUDA itself: the callbacks must be there before it.
    if (::access("/dev/nvidiactl", F_OK) != 0 && ::access("/dev/dxg", F_OK) != 0)
      GTEST_SKIP() << "no CUDA device";
    const CUptiResult result = cuptiSubscribe(&subscriber_, on_call, &calls_);
    if (result == CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED)
      GTEST_SKIP() << "another profiler owns CUPTI in this process";
    ASSERT_EQ(result, CUPTI_SUCCESS);
    subscribed_ = true;
    for (const CUpti_CallbackDomain domain : {CUPTI_CB_DOMAIN_RUNTIME_API, CUPTI_CB_DOMAIN_DRIVER_API}) {
      ASSERT_EQ(cuptiEnableDomain(1, subscriber_, domain), CUPTI_SUCCESS);
    }
    TANDEM_NEED_DEVICE();
  }
  void TearDown() override {
    if (!subscribed_) return;
    EXPECT_EQ(cuptiUnsubscribe(subscriber_), CUPTI_SUCCESS);
  }

  static CoverCase tiny(Precision precision, int rows) {
    CoverCase c;
    c.config = preset("tiny");
    c.precision = precision;
    c.lengths.assign(static_cast<size_t>(rows), 12);
    c.lengths[0] = 30;
    return c;
  }

  /// A workload that has run before: kernels are loaded, the device's memory is there.
  static std::unique_ptr<Workload> warm(CudaEngine& engine, const CoverCase& cover, const std::string& stop,
                                        int steps) {
    Case c = case_of(cover, Suite::kGenerate, steps);
    c.stop = stop;
    engine.load(c, cover.config, {.precision = cover.precision});
    auto workload = engine.prepare(c, make_batch(cover.config, cover.lengths, kInputSeed));
    for (int i = 0; i < 2; ++i) workload->repeat();
    return workload;
  }

  Calls calls_;

 private:
  CUpti_SubscriberHandle subscriber_ = nullptr;
  bool subscribed_ = false;
};

// Breaks when the host allocates, frees or waits while tokens are generated: the card would wait for it, or be timed with it.
// Own kernels with few rows, the library's products with many.
TEST_F(SteadyState, DecodeOnlyLaunches) {
  for (const Precision precision : {Precision::kBf16, Precision::kFp32}) {
    for (const int rows : {2, 70}) {
      SCOPED_TRACE(fmt::format("{} batch {}", precision_name(precision), rows));
      CudaEngine engine({.search_choices = false});
      const auto workload = warm(engine, tiny(precision, rows), "fixed", 100);
      const Window w = window_of(calls_.during([&] { workload->repeat(); }));
      EXPECT_GE(w.launches, 4) << "the encoder, the first step and graphs of several steps";
      EXPECT_TRUE(w.allocations.empty()) << fmt::format("{}", fmt::join(w.allocations, " "));
      EXPECT_TRUE(w.waits.empty()) << fmt::format("{}", fmt::join(w.waits, " "));
    }
  }
}

// Breaks when a generation that may end early waits for every step: it may for one event a graph, made a graph ago.
TEST_F(SteadyState, StoppingAtEosWaitsAtMostOnceAGraph) {
  constexpr int kSteps = 100;
  CoverCase cover = tiny(Precision::kBf16, 3);
  cover.config.max_positions = 1024;
  CudaEngine engine({.search_choices = false});
  const auto workload = warm(engine, cover, "eos", kSteps);
  const Window w = window_of(calls_.during([&] { workload->repeat(); }));
  EXPECT_GE(w.launches, 3);
  EXPECT_LT(w.launches, kSteps / 2) << "several steps are one launch";
  EXPECT_TRUE(w.allocations.empty()) << fmt::format("{}", fmt::join(w.allocations, " "));
  // The driver's own call of a runtime call is counted, too.
  const auto runtime = std::count_if(w.waits.begin(), w.waits.end(),
                                     [](const std::string& name) { return name.starts_with("cuda"); });
  EXPECT_LE(runtime, w.launches) << fmt::format("{}", fmt::join(w.waits, " "));
}

// Breaks when the two above see nothing: a wait and an allocation planted between two launches must be counted, and so must
// the wait that ends the first of two repetitions.
TEST_F(SteadyState, PlantedCallsAreSeen) {
  CudaEngine engine({.search_choices = false});
  const auto workload = warm(engine, tiny(Precision::kBf16, 2), "fixed", 40);
  void* planted = nullptr;
  const Window w = window_of(calls_.during([&] {
    workload->repeat();
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(engine.device().stream()));
    TANDEM_CUDA_CHECK(cudaMalloc(&planted, 1 << 20));
    workload->repeat();
  }));
  TANDEM_CUDA_CHECK(cudaFree(planted));
  const auto seen = [](const std::vector<std::string>& names, std::string_view call) {
    return std::count_if(names.begin(), names.end(),
                         [&](const std::string& name) { return name.starts_with(call); });
  };
  EXPECT_EQ(seen(w.waits, "cudaStreamSynchronize"), 1) << fmt::format("{}", fmt::join(w.waits, " "));
  EXPECT_EQ(seen(w.waits, "cudaEventSynchronize"), 1) << fmt::format("{}", fmt::join(w.waits, " "));
  EXPECT_EQ(seen(w.allocations, "cudaMalloc"), 1) << fmt::format("{}", fmt::join(w.allocations, " "));
}

}  // namespace
}  // namespace tandem::kernels
