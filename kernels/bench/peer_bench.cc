// Times the own all-reduce, and NCCL's beside it, on the devices here, or the own one on one device with ranks emulated (then no link
// is crossed: what is left is the kernels' own time). Results are checked by peer_reduce_test.
//
//   peer_bench              2, 4 and 8 ranks: a chain of 72 as targets.md counts it, and single messages by size

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <vector>

#include "kernels/collectives/nccl.h"
#include "kernels/collectives/peer_reduce.h"
#include "kernels/collectives/peer_test_util.h"
#include "kernels/common/device_buffer.h"
#include "kernels/common/timed_graph.h"

namespace tandem::kernels {
namespace {

constexpr int kChain = 72;
constexpr int kWidth = 1024;
constexpr DType kType = DType::kBF16;

/// Microseconds of one replay of what `work(rank, stream)` enqueues: the slowest rank's mean, the least of three runs.
template <typename Work>
double replay_us(const LocalRanks& all, int replays, const Work& work) {
  all.each([&](int r) { work(r, all.stream(r)); });
  all.synchronize();
  std::vector<std::unique_ptr<TimedGraph>> graphs(static_cast<size_t>(all.size()));
  std::vector<cudaEvent_t> begin(graphs.size());
  std::vector<cudaEvent_t> end(graphs.size());
  all.each([&](int r) {
    graphs[r] = std::make_unique<TimedGraph>(all.stream(r), [&](cudaStream_t stream) { work(r, stream); });
    TANDEM_CUDA_CHECK(cudaEventCreate(&begin[r]));
    TANDEM_CUDA_CHECK(cudaEventCreate(&end[r]));
  });
  double best = 1e30;
  for (int run = 0; run < 4; ++run) {
    for (int i = 0; i <= replays; ++i) {
      all.each([&](int r) {
        if (i == 1) TANDEM_CUDA_CHECK(cudaEventRecord(begin[r], all.stream(r)));
        graphs[r]->launch();
      });
    }
    double slowest = 0;
    all.each([&](int r) {
      TANDEM_CUDA_CHECK(cudaEventRecord(end[r], all.stream(r)));
      TANDEM_CUDA_CHECK(cudaEventSynchronize(end[r]));
      float ms = 0;
      TANDEM_CUDA_CHECK(cudaEventElapsedTime(&ms, begin[r], end[r]));
      slowest = std::max(slowest, ms * 1e3 / replays);
    });
    if (run > 0) best = std::min(best, slowest);
  }
  all.each([&](int r) {
    graphs[r].reset();
    TANDEM_CUDA_CHECK(cudaEventDestroy(begin[r]));
    TANDEM_CUDA_CHECK(cudaEventDestroy(end[r]));
  });
  return best;
}

struct Buffers {
  explicit Buffers(const LocalRanks& all, int64_t bytes) {
    all.each([&](int) {
      for (auto* list : {&x, &y, &gamma}) {
        list->emplace_back(std::max<int64_t>(bytes, 2 * kWidth));
        TANDEM_CUDA_CHECK(cudaMemset(list->back().data(), 0, static_cast<size_t>(list->back().bytes())));
      }
      TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
    });
  }
  NormParams norm(int r, int64_t rows, bool dependent) const {
    return {.dtype = kType,
            .x_dtype = kType,
            .stream_dtype = kType,
            .norm = Norm::kRms,
            .rows = rows,
            .d = kWidth,
            .x = x[r].data(),
            .residual = y[r].data(),
            .sum = y[r].data(),
            .gamma = gamma[r].data(),
            .y = x[r].data(),
            .dependent = dependent};
  }
  std::vector<DeviceBuffer> x, y, gamma;
};

/// One of NCCL's by every rank, outside a graph: it connects the ranks, which a single one cannot.
void connect(const LocalRanks& all, const std::vector<NcclRank>& nccl, const Buffers& b, int64_t count) {
  NcclGroup group;
  all.each([&](int r) { nccl[r].all_reduce(b.x[r].data(), b.y[r].data(), count, kType, all.stream(r)); });
  group.end();
  all.synchronize();
}

void time_ranks(const LocalRanks& all, const std::vector<int>& devices) {
  std::printf("%s\n", all.text().c_str());
  std::vector<NcclRank> nccl;
  if (!all.emulated() && nccl_available()) nccl = NcclRank::local(devices);
  // Kernels launched early hold places on the device that emulated ranks share.
  const bool dependent = !all.emulated();
  for (const int64_t rows : {1, 32, 64}) {
    const Buffers b(all, rows * kWidth * 2);
    const auto chain = [&](auto collective) {
      return replay_us(all, 30, [&](int r, cudaStream_t stream) {
        for (int i = 0; i < kChain; ++i) collective(r, stream);
      });
    };
    const auto norms = [&](int r, cudaStream_t stream) { launch_norm(b.norm(r, rows, dependent), stream); };
    const double without = chain(norms);
    std::printf("chain of %d, %3lld KiB: norm %.2f us each", kChain, static_cast<long long>(2 * rows),
                without / kChain);
    for (const PeerAlgorithm algorithm : {PeerAlgorithm::kOneShot, PeerAlgorithm::kTwoShot}) {
      const double fused = chain([&](int r, cudaStream_t stream) {
        launch_all_reduce_norm(all.view(r), algorithm, b.norm(r, rows, dependent), stream);
      });
      const double apart = chain([&](int r, cudaStream_t stream) {
        launch_all_reduce(all.view(r),
                          {.algorithm = algorithm,
                           .dtype = kType,
                           .count = rows * kWidth,
                           .x = b.x[r].data(),
                           .y = b.x[r].data(),
                           .dependent = dependent},
                          stream);
        norms(r, stream);
      });
      std::printf("; %s fused +%.2f, apart +%.2f",
                  algorithm == PeerAlgorithm::kOneShot ? "one-shot" : "two-shot", (fused - without) / kChain,
                  (apart - without) / kChain);
    }
    std::printf("\n");
  }
  std::printf("%10s %10s %10s  us of one in a row of 10; two-shot busbw GB/s\n", "KiB", "one-shot",
              "two-shot");
  for (int64_t kib = 2; kib <= 128 << 10; kib *= 4) {
    const int64_t bytes = kib << 10;
    const Buffers b(all, bytes);
    std::printf("%10lld", static_cast<long long>(kib));
    double best = 1e30;
    for (const PeerAlgorithm algorithm : {PeerAlgorithm::kOneShot, PeerAlgorithm::kTwoShot}) {
      if (algorithm == PeerAlgorithm::kOneShot && kib > 4096) {
        std::printf(" %10s", "-");
        continue;
      }
      const double us = replay_us(all, kib > 4096 ? 3 : 20,
                                  [&](int r, cudaStream_t stream) {
                                    for (int i = 0; i < 10; ++i) {
                                      launch_all_reduce(all.view(r),
                                                        {.algorithm = algorithm,
                                                         .dtype = kType,
                                                         .count = bytes / 2,
                                                         .x = b.x[r].data(),
                                                         .y = b.y[r].data(),
                                                         .dependent = dependent},
                                                        stream);
                                    }
                                  }) /
                        10;
      std::printf(" %10.2f", us);
      best = std::min(best, us);
    }
    if (nccl.empty()) {
      std::printf(" %10s", "-");
    } else {
      connect(all, nccl, b, bytes / 2);
      const double us =
          replay_us(all, kib > 4096 ? 3 : 20,
                    [&](int r, cudaStream_t stream) {
                      for (int i = 0; i < 10; ++i)
                        nccl[r].all_reduce(b.x[r].data(), b.y[r].data(), bytes / 2, kType, stream);
                    }) /
          10;
      std::printf(" %10.2f", us);
      best = std::min(best, us);
    }
    std::printf("  %.0f\n", static_cast<double>(bytes) / best * 1e-3 * 2 * (all.size() - 1) / all.size());
  }
  for (int r = 0; r < all.size(); ++r) {
    if (all.memory(r).lost()) std::printf("rank %d was lost to rank %d\n", *all.memory(r).lost(), r);
  }
}

int run() {
  int devices = 0;
  TANDEM_CUDA_CHECK(cudaGetDeviceCount(&devices));
  for (const int ranks : {2, 4, 8}) {
    const auto all = placements(ranks);
    // Where every rank has a device, the emulated ones say nothing more.
    time_ranks(LocalRanks(all.back(), PeerOptions{}), all.back());
  }
  return 0;
}

}  // namespace
}  // namespace tandem::kernels

int main() {
  try {
    return tandem::kernels::run();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
