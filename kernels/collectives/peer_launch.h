// Grids of which all blocks are resident: they wait for blocks of other ranks. Internal to the launchers.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>

#include "harness/base/cuda_check.h"
#include "kernels/collectives/peer_layout.h"

namespace tandem::kernels {

/// Blocks for `wanted` units of work, of a kernel of `threads` threads, with `sharing` ranks on this device.
inline unsigned resident_blocks(const void* kernel, int threads, int sharing, int64_t wanted) {
  static std::mutex mutex;
  static std::map<std::tuple<const void*, int, int>, int> known;
  int device = 0;
  TANDEM_CUDA_CHECK(cudaGetDevice(&device));
  const std::lock_guard lock(mutex);
  int& resident = known[{kernel, threads, device}];
  if (resident == 0) {
    int of_multiprocessor = 0;
    int multiprocessors = 0;
    TANDEM_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&of_multiprocessor, kernel, threads, 0));
    TANDEM_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
    resident = of_multiprocessor * multiprocessors;
  }
  const int64_t most = std::min(resident / sharing, kMaxPeerBlocks);
  return static_cast<unsigned>(std::max<int64_t>(1, std::min(wanted, most)));
}

}  // namespace tandem::kernels
