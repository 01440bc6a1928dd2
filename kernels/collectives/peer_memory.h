// The memory that ranks open to each other, and who sees whose.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/collectives/peer_reduce.h"
#include "kernels/common/device_buffer.h"

namespace tandem::kernels {

struct PeerOptions {
  int64_t oneshot_bytes = int64_t{1} << 20;
  int64_t twoshot_bytes = int64_t{32} << 20;
  double wait_s = 10;
  uint32_t first_generation = 1;  ///< for tests
};

/// One rank's arena on the device that is current, and its view of the others'.
class PeerMemory {
 public:
  /// Throws UsageError for ranks that are not 2, 4 or 8 and for limits that are too small, OutOfMemory.
  PeerMemory(int rank, int ranks, const PeerOptions& options);
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  /// What another process opens.
  cudaIpcMemHandle_t handle() const;
  /// Another rank's arena: by address where it is of this process, by handle otherwise.
  struct Other {
    char* arena = nullptr;
    int device = 0;  ///< with an address: its device
    cudaIpcMemHandle_t handle = {};
  };
  /// One a rank, its own ignored; `sharing` ranks of this process, this one too, are on this device. The device must reach the others
  /// (peer_access). Before any rank destroys its memory, all must have closed it: a barrier between. Throws CudaError.
  void open(std::span<const Other> others, int sharing);
  void close();

  const PeerView& view() const { return view_; }
  int device() const { return device_; }
  /// Cycles that this rank's kernels have waited for others (PeerState::waited), after what `stream` holds.
  uint64_t waited(cudaStream_t stream) const;
  /// The rank that a kernel waited for in vain.
  std::optional<int> lost() const;

 private:
  int device_ = 0;
  DeviceBuffer arena_;
  PeerView view_;
  std::array<bool, kMaxPeers> by_handle_ = {};
};

/// A memory a rank in this process, rank r on devices[r], all opened. A device may come several times: its ranks are emulated.
/// Throws DeviceError naming two devices that cannot reach each other. The current device stays.
std::vector<std::unique_ptr<PeerMemory>> join_local_peers(std::span<const int> devices,
                                                          const PeerOptions& options);

/// Can device `from` read and write the memory of `to`? The same device can.
bool peer_access(int from, int to);

}  // namespace tandem::kernels
