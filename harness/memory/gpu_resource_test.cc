// The conformance suite over the driver's allocator and over the cache above it, and page-locking of Level-1 objects.
#include "harness/memory/gpu_resource.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "harness/base/cuda_check.h"
#include "harness/memory/caching_resource.h"
#include "harness/memory/level1_cache.h"
#include "harness/memory/memory_conformance.h"

namespace tandem {
namespace {

bool has_device() {
  int count = 0;
  const bool found = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
  cudaGetLastError();
  return found;
}

MemoryLevel on_gpu(std::unique_ptr<MemoryResource> upstream, std::unique_ptr<MemoryResource> resource) {
  return {.upstream = std::move(upstream),
          .resource = std::move(resource),
          .fill = [](void* to, int value,
                     int64_t bytes) { TANDEM_CUDA_CHECK(cudaMemset(to, value, static_cast<size_t>(bytes))); },
          .read =
              [](const void* from) {
                unsigned char byte = 0;
                TANDEM_CUDA_CHECK(cudaMemcpy(&byte, from, 1, cudaMemcpyDeviceToHost));
                return static_cast<int>(byte);
              }};
}
MemoryLevel gpu_level() {
  return has_device() ? on_gpu(nullptr, make_gpu_resource(0)) : MemoryLevel{};
}
MemoryLevel caching_level() {
  if (!has_device()) return {};
  auto upstream = make_gpu_resource(0);
  auto caching = std::make_unique<CachingResource>(*upstream);
  return on_gpu(std::move(upstream), std::move(caching));
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(GpuLevels, MemoryConformance, ::testing::Values(gpu_level, caching_level),
                         [](const auto& info) { return info.index == 0 ? "Gpu" : "Caching"; });

namespace {

// Breaks when weights cannot be copied straight from a mapped Level-1 object, locked or not.
TEST(PageLock, Level1ObjectsAreCopiedWhole) {
  if (!has_device()) GTEST_SKIP() << "no CUDA device";
  const std::string run = ::testing::TempDir() + "tandem-pagelock-" + std::to_string(::getpid());
  const Level1Cache::Options options{.run_dir = run, .cap_bytes = 64 << 20};
  {
    Level1Cache cache(options);
    constexpr int64_t kBytes = 8 << 20;
    const Level1Object object = cache.get("weights", kBytes, [](std::span<std::byte> out) {
      for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>(i * 31 + (i >> 12));
    });
    const PageLock lock(const_cast<void*>(object.data()), object.bytes());
    std::printf("page-locked: %s\n", lock.locked() ? "yes" : "no");
    auto gpu = make_gpu_resource(0);
    const MemoryBlock block(*gpu, kBytes);
    TANDEM_CUDA_CHECK(cudaMemcpy(block.data(), object.data(), kBytes, cudaMemcpyHostToDevice));
    std::vector<unsigned char> back(kBytes);
    TANDEM_CUDA_CHECK(cudaMemcpy(back.data(), block.data(), kBytes, cudaMemcpyDeviceToHost));
    EXPECT_TRUE(std::equal(back.begin(), back.end(), static_cast<const unsigned char*>(object.data())));
  }
  Level1Cache::remove(options);
  std::filesystem::remove_all(run);
}

}  // namespace
}  // namespace tandem
