// What tests and benches of collectives share: ranks of one process with a stream each, on one device or on several.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "harness/base/cuda_check.h"
#include "kernels/collectives/peer_memory.h"

namespace tandem::kernels {

/// Streams that share a hardware queue would run kernels of two ranks one after the other, and each waits for the other. To be
/// asked for before the process first talks to a device.
inline const bool kQueuesAsked = ::setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0) == 0;
/// A kernel that is loaded when it is first launched waits for those that run, and holds up the launches of all threads: one that
/// waits for another rank then waits in vain. Processes with one rank each have no such need.
inline const bool kLoadedFirst = ::setenv("CUDA_MODULE_LOADING", "EAGER", 0) == 0;

/// The ways to lay ranks over the devices here: all on the first, and, where there are enough, one on each.
inline std::vector<std::vector<int>> placements(int ranks) {
  std::vector<std::vector<int>> all = {std::vector<int>(static_cast<size_t>(ranks), 0)};
  int devices = 0;
  TANDEM_CUDA_CHECK(cudaGetDeviceCount(&devices));
  if (devices < ranks) return all;
  std::vector<int> spread(static_cast<size_t>(ranks));
  std::iota(spread.begin(), spread.end(), 0);
  for (int from : spread) {
    for (int to : spread) {
      if (!peer_access(from, to)) return all;
    }
  }
  all.push_back(spread);
  return all;
}

class LocalRanks {
 public:
  LocalRanks(const std::vector<int>& devices, const PeerOptions& options)
      : memories_(join_local_peers(devices, options)), streams_(devices.size()) {
    each([&](int r) { TANDEM_CUDA_CHECK(cudaStreamCreateWithFlags(&streams_[r], cudaStreamNonBlocking)); });
  }
  ~LocalRanks() {
    each([&](int r) {
      TANDEM_CUDA_WARN(cudaStreamSynchronize(streams_[r]));
      TANDEM_CUDA_WARN(cudaStreamDestroy(streams_[r]));
    });
  }
  LocalRanks(const LocalRanks&) = delete;
  LocalRanks& operator=(const LocalRanks&) = delete;

  int size() const { return static_cast<int>(memories_.size()); }
  bool emulated() const { return size() > 1 && memories_[0]->device() == memories_[1]->device(); }
  const PeerView& view(int r) const { return memories_[r]->view(); }
  PeerMemory& memory(int r) const { return *memories_[r]; }
  cudaStream_t stream(int r) const { return streams_[r]; }
  std::string text() const {
    return std::to_string(size()) + (emulated() ? " ranks on one device" : " devices");
  }

  /// Calls `work(rank)` with the rank's device current; afterwards device 0 is.
  template <typename Work>
  void each(const Work& work) const {
    for (int r = 0; r < size(); ++r) {
      TANDEM_CUDA_WARN(cudaSetDevice(memories_[r]->device()));
      work(r);
    }
    TANDEM_CUDA_WARN(cudaSetDevice(0));
  }
  void synchronize() const {
    each([&](int r) { TANDEM_CUDA_CHECK(cudaStreamSynchronize(streams_[r])); });
  }

 private:
  std::vector<std::unique_ptr<PeerMemory>> memories_;
  std::vector<cudaStream_t> streams_;
};

}  // namespace tandem::kernels
