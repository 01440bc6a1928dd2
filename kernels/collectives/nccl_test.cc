#include "kernels/collectives/nccl.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "kernels/collectives/peer_tensors_test_util.h"
#include "kernels/common/capture.h"

namespace tandem::kernels {
namespace {

#define TANDEM_NEEDS_NCCL() \
  TANDEM_NEEDS_DEVICE();    \
  if (std::string why; !nccl_available(&why)) GTEST_SKIP() << why

// Breaks when NCCL's own default for NVLink multicast is left on, or a user's word for it is overruled.
TEST(Nccl, MulticastIsOffUnlessAsked) {
  nccl_available();
  ASSERT_NE(std::getenv("NCCL_NVLS_ENABLE"), nullptr);
  EXPECT_STREQ(std::getenv("NCCL_NVLS_ENABLE"), "0");
}

// Breaks when the library is not looked for where Python's packages have it.
TEST(Nccl, LooksWhereItMayBe) {
  const std::vector<std::string> paths = nccl_paths();
  ASSERT_FALSE(paths.empty());
  EXPECT_EQ(paths[0], "libnccl.so.2");
  for (size_t i = 1; i < paths.size(); ++i) EXPECT_TRUE(paths[i].ends_with("/nvidia/nccl/lib/libnccl.so.2"));
}

// Breaks when one rank does not run the path that many do: id, meeting, sum, gather, broadcast, in a graph and out of one.
TEST(Nccl, OneRankGoesTheSameWay) {
  TANDEM_NEEDS_NCCL();
  EXPECT_FALSE(nccl_version().empty());
  const NcclRank rank(0, 1, make_nccl_id(), 60);
  RandomValues random(test_seed());
  cudaStream_t stream = nullptr;
  TANDEM_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (const DType dtype : kFloatTypes) {
    const auto values = random.normal(1000, dtype);
    const DeviceTensor x(values, dtype);
    const DeviceTensor sum(1000, dtype);
    const DeviceTensor all(1000, dtype);
    TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
    const auto work = [&] {
      rank.all_reduce(x.data(), sum.data(), 1000, dtype, stream);
      rank.all_gather(sum.data(), all.data(), tensor_bytes(dtype, 1000), stream);
      rank.broadcast(all.data(), tensor_bytes(dtype, 1000), 0, stream);
    };
    work();
    const cudaGraphExec_t graph = capture(stream, work);
    for (int i = 0; i < 3; ++i) TANDEM_CUDA_CHECK(cudaGraphLaunch(graph, stream));
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
    EXPECT_TRUE(all.bytes() == encoded(values, dtype));
    TANDEM_CUDA_CHECK(cudaGraphExecDestroy(graph));
  }
  EXPECT_NO_THROW(rank.check());
  EXPECT_THROW(rank.all_reduce(nullptr, nullptr, 8, DType::kI8, stream), UsageError);
  TANDEM_CUDA_CHECK(cudaStreamDestroy(stream));
}

// Breaks when ranks of one thread get other sums than the own kernels, or the sums differ between ranks.
TEST(Nccl, SumsOverDevices) {
  TANDEM_NEEDS_NCCL();
  const std::vector<int> devices = placements(2).back();
  if (devices[0] == devices[1]) GTEST_SKIP() << "one device";
  const LocalRanks all(devices, kSmall);
  const std::vector<NcclRank> nccl = NcclRank::local(devices);
  RandomValues random(test_seed());
  for (const DType dtype : kFloatTypes) {
    const auto x = values_of_ranks(2, 4096, dtype, random);
    const Tensors t = tensors(all, x, dtype);
    NcclGroup group;
    all.each([&](int r) { nccl[r].all_reduce(t[r]->data(), t[r]->data(), 4096, dtype, all.stream(r)); });
    group.end();
    all.synchronize();
    EXPECT_TRUE(bytes(all, t, 0) == bytes(all, t, 1));
    const auto sum = host_sum(x, dtype);
    expect_near(decoded(bytes(all, t, 0), dtype), {sum.begin(), sum.end()}, 2 * epsilon(dtype), 1e-6, "sum");
  }
}

// Breaks when a rank that never comes hangs the others for ever.
TEST(Nccl, MeetingIsBounded) {
  TANDEM_NEEDS_NCCL();
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  // The thread that is left behind would keep this process from ending in order: a process of its own.
  EXPECT_EXIT(
      {
        const auto start = std::chrono::steady_clock::now();
        try {
          const NcclRank rank(0, 2, make_nccl_id(), 2);
        } catch (const Error&) {
          const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - start;
          std::_Exit(waited.count() < 20 ? 7 : 8);
        }
        std::_Exit(9);
      },
      ::testing::ExitedWithCode(7), "");
}

}  // namespace
}  // namespace tandem::kernels
