#include "kernels/limits/limits.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "harness/base/error.h"
#include "kernels/common/device_test.h"
#include "kernels/common/timed_graph.h"
#include "kernels/gemm/structured/structured_gemm.h"
#include "kernels/limits/delay.h"
#include "kernels/limits/stream.h"

namespace tandem::kernels {
namespace {

uint32_t word_at(const DeviceBuffer& buffer) {
  return buffer.to_host<uint32_t>().front();
}

void expect_rate(const Limit& limit, size_t samples) {
  EXPECT_TRUE(limit.ok()) << limit.wrong;
  ASSERT_EQ(limit.samples.size(), samples);
  EXPECT_TRUE(std::isfinite(limit.value));
  EXPECT_GT(limit.value, 0);
}

// Without it: the sum that a stream is checked against is wrong, and a kernel that reads half passes or a good one fails.
TEST(Limits, PatternSumIsTheSum) {
  uint32_t sum = 0;
  for (uint64_t n = 0; n < 3000; ++n) {
    ASSERT_EQ(pattern_sum(n), sum) << n;
    sum += static_cast<uint32_t>(n) * kPatternStep;
  }
  // A long buffer, by adding what lies between two lengths.
  const uint64_t large = (4ull << 30) / 4 * 3;
  EXPECT_EQ(pattern_sum(large + 1) - pattern_sum(large), static_cast<uint32_t>(large) * kPatternStep);
  EXPECT_EQ(pattern_sum(large) - pattern_sum(large - 1), static_cast<uint32_t>(large - 1) * kPatternStep);
}

// Without it: a read that skips words, or a copy that goes wrong, would be called a ceiling.
TEST(Limits, StreamsReadAndCopyEveryWord) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (const StreamShape shape : {StreamShape{1, 4}, StreamShape{4, 8}, StreamShape{8, 4}}) {
    for (int i = 0; i < 8; ++i) {
      const int64_t bytes = 16 * random.between(1, 300000);
      const DeviceBuffer in(bytes);
      const DeviceTensor out(bytes / 4, DType::kF32);
      const DeviceBuffer sum = DeviceBuffer::of(std::vector<uint32_t>{5});
      const StreamParams p{.in = in.data(),
                           .out = in.data(),
                           .bytes = bytes,
                           .repeats = 1,
                           .sum = sum.data<uint32_t>(),
                           .shape = shape,
                           .sms = 7};
      launch_pattern(p, nullptr);
      launch_read(p, nullptr);
      uint32_t want = 5 + pattern_sum(static_cast<uint64_t>(bytes) / 4);
      EXPECT_EQ(word_at(sum), want) << bytes;
      StreamParams thrice = p;
      thrice.repeats = 3;
      launch_read_l2(thrice, nullptr);
      want += 3 * pattern_sum(static_cast<uint64_t>(bytes) / 4);
      EXPECT_EQ(word_at(sum), want) << bytes;

      StreamParams copy = p;
      copy.out = out.data();
      launch_copy(copy, nullptr);
      const DeviceBuffer wrong = DeviceBuffer::of(std::vector<uint32_t>{0});
      const StreamParams count{.in = out.data(), .bytes = bytes, .sum = wrong.data<uint32_t>(), .sms = 7};
      launch_count_wrong(count, nullptr);
      EXPECT_EQ(word_at(wrong), 0u) << bytes;
      TANDEM_CUDA_CHECK(cudaMemset(static_cast<char*>(out.data()) + bytes - 4, 0x55, 4));
      launch_count_wrong(count, nullptr);
      EXPECT_EQ(word_at(wrong), 1u) << "one damaged word must be seen";
      (void)out.bytes();  // checks the guard
    }
  }
}

// Without it: a measurement throws, finds its own result wrong, or gives no number on this card.
TEST(Limits, MemoryRatesAreMeasured) {
  TANDEM_NEEDS_DEVICE();
  expect_rate(measure_read_gbs(256 << 20, 3), 3);
  expect_rate(measure_copy_gbs(128 << 20, 3), 3);
  expect_rate(measure_l2_gbs(0, 3), 3);
  EXPECT_THROW(measure_read_gbs(8, 3), UsageError);
  EXPECT_THROW(measure_read_gbs(1 << 20, 0), UsageError);
}

// Without it: nodes of the chain overlap where they must not, or one launch form fails inside a graph.
TEST(Limits, EmptyNodesAreMeasured) {
  TANDEM_NEEDS_DEVICE();
  for (bool dependent : {false, true}) {
    const Limit limit = measure_empty_node_us(dependent, 100, 5);
    expect_rate(limit, 5);
    EXPECT_LT(limit.value, 100) << "no card takes 100 us for an empty kernel";
  }
}

// Without it: a type's rate is that of wrong products, or its descriptor is refused.
TEST(Limits, MatrixRatesAreMeasured) {
  TANDEM_NEEDS_DEVICE();
  cudaDeviceProp card{};
  TANDEM_CUDA_CHECK(cudaGetDeviceProperties(&card, 0));
  for (Precision precision : {Precision::kFp32, Precision::kTf32, Precision::kFp16, Precision::kBf16,
                              Precision::kFp8, Precision::kInt8}) {
    const bool has_fp8 = card.major > 8 || (card.major == 8 && card.minor == 9);
    if (precision == Precision::kFp8 && !has_fp8) continue;
    GemmRate rate({.precision = precision, .m = 1024, .n = 768, .k = 512});
    const Limit limit = rate.measure(2);
    EXPECT_TRUE(limit.ok()) << precision_name(precision) << ": " << limit.wrong;
    expect_rate(limit, 2);
    std::printf("%s at 1024 x 768 x 512: %.1f\n", std::string(precision_name(precision)).c_str(),
                limit.value);
  }
  if (const std::string lacks = structured_lacks(); lacks.empty()) {
    const Limit limit = GemmRate({.two_of_four = true, .m = 1024, .n = 768, .k = 512}).measure(2);
    EXPECT_TRUE(limit.ok()) << "2:4: " << limit.wrong;
    expect_rate(limit, 2);
    std::printf("2:4 bf16 at 1024 x 768 x 512: %.1f\n", limit.value);
  } else {
    EXPECT_THROW(GemmRate({.two_of_four = true, .m = 1024, .n = 768, .k = 512}), DeviceError) << lacks;
  }
  GemmRate sustained({.m = 2048, .n = 2048, .k = 2048, .regime = Regime::kSustained});
  expect_rate(sustained.measure(2), 2);
  expect_rate(sustained.measure(1), 1);  // again, with the operands and the algorithm that it has
  EXPECT_THROW(sustained.measure(0), UsageError);
  EXPECT_THROW(GemmRate({.precision = Precision::kW4a16}), UsageError);
  EXPECT_THROW(GemmRate({.m = 0}), UsageError);
  EXPECT_THROW(GemmRate({.precision = Precision::kFp8, .two_of_four = true}), UsageError);
}

// Without it: tests that rely on a kernel of a known length wait for nothing.
TEST(Limits, DelayTakesItsTime) {
  TANDEM_NEEDS_DEVICE();
  cudaStream_t stream = nullptr;
  TANDEM_CUDA_CHECK(cudaStreamCreate(&stream));
  {
    launch_delay({.ns = 1000}, stream);
    launch_empty({.blocks = 3}, stream);
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
    for (bool dependent : {false, true}) {
      TimedGraph graph(stream, [&](cudaStream_t s) {
        launch_delay({.ns = 2'000'000, .blocks = 4, .dependent = dependent}, s);
        launch_empty({.dependent = dependent}, s);
        launch_delay({.ns = 2'000'000, .dependent = dependent}, s);
      });
      const double us = graph.time_us();
      EXPECT_GE(us, 3990) << "the second delay must wait for the first";
      EXPECT_LT(us, 8000);
    }
  }
  TANDEM_CUDA_CHECK(cudaStreamDestroy(stream));
  EXPECT_THROW(launch_delay({.ns = -1}, nullptr), UsageError);
  EXPECT_THROW(launch_empty({.blocks = 0}, nullptr), UsageError);
}

}  // namespace
}  // namespace tandem::kernels
