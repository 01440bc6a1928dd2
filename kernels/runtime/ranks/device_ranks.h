// Ranks whose buffers are in device memory: they find each other over a communicator of host memory, then sum and gather on their
// streams, by the own kernels where devices reach each other's memory, by NCCL otherwise.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "harness/parallel/communicator.h"
#include "kernels/collectives/choose.h"
#include "kernels/collectives/nccl.h"
#include "kernels/collectives/peer_memory.h"

namespace tandem::kernels {

/// One rank. Everything here is collective: all ranks call the same in the same order, and what they decide they decide alike.
class DeviceRanks {
 public:
  /// On the device that is current. `control` outlives it. Finds out who reaches whom: arenas are exchanged (within a process by
  /// pointer, between processes by CUDA IPC) and tried with a sum by each algorithm. Throws RankLost, Error.
  DeviceRanks(Communicator& control, cudaStream_t stream, double wait_s = kRankWait_s);
  ~DeviceRanks();
  DeviceRanks(const DeviceRanks&) = delete;
  DeviceRanks& operator=(const DeviceRanks&) = delete;

  int rank() const { return control_.rank(); }
  int size() const { return control_.size(); }
  /// Why the own kernels cannot be used, "ranks 0 and 1: devices cannot reach each other's memory"; empty: they can.
  const std::string& no_peers() const { return no_peers_; }
  /// Meets the ranks in NCCL, the first time. Why that cannot be; empty: it can.
  const std::string& no_nccl();
  /// Are other ranks on this rank's device? Then kernels must not be launched before their inputs are there (dependent): those that
  /// wait would take the places of other ranks' kernels.
  bool shares_device() const { return shares_device_; }

  /// How messages of so many bytes go under the `allreduce` axis. Throws ImpossibleCase naming the axis for a way that is not there.
  CollectiveWay way(AllReduceChoice choice, int64_t bytes);
  /// What kAuto does from now on; the same on all ranks.
  void use(const CollectiveTable& table) { table_ = table; }
  const CollectiveTable& table() const { return table_; }

  // Each says whether the kernel after it may be launched dependently: not after NCCL's.
  /// y = x summed over the ranks; y may be x.
  bool all_reduce(AllReduceChoice choice, const void* x, void* y, int64_t count, DType dtype, bool dependent);
  /// The norm of norm.x summed over the ranks, fused where the way and the width allow it. `sum`: where the sum may lie otherwise,
  /// as norm.x, and may be norm.x.
  bool all_reduce_norm(AllReduceChoice choice, const NormParams& norm, void* sum);
  /// y [size, bytes]: x of every rank. `counted`: does its wait count in waited_cycles()?
  bool all_gather(const void* x, void* y, int64_t bytes, bool dependent, bool counted = true);

  /// Cycles that this rank's kernels have waited for others so far, after what its stream holds. Absent without own kernels.
  std::optional<uint64_t> waited_cycles() const;
  /// Exchanges that were left to NCCL so far, whose waits nobody counts.
  int64_t library_calls() const { return library_calls_; }

  /// Throws RankLost when a kernel waited in vain.
  void check() const;
  /// Waits for `event` of this rank's stream, but not for ever: throws RankLost naming the rank that is gone.
  void wait(cudaEvent_t event);

 private:
  void join_peers();
  std::string try_peers();
  NcclRank& nccl();
  /// One text for all: the first rank's that has something to say.
  std::string first_word(const std::string& mine);

  Communicator& control_;
  cudaStream_t stream_;
  double wait_s_;
  std::unique_ptr<PeerMemory> memory_;
  std::string no_peers_;
  std::optional<NcclRank> nccl_;
  std::optional<std::string> no_nccl_;
  CollectiveTable table_;
  bool shares_device_ = false;
  int64_t library_calls_ = 0;
};

}  // namespace tandem::kernels
