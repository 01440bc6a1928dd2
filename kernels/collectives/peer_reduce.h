// All-reduce and all-gather over memory that ranks open to each other: each rank's kernel writes into the others' arenas and
// reads its own. In rank order, in fp32, rounded once, so every rank gets the same bits, by either algorithm.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "harness/base/tensor.h"
#include "kernels/collectives/peer_layout.h"
#include "kernels/norm/norm.h"

namespace tandem::kernels {

/// A rank's place among its peers, as kernels take it.
struct PeerView {
  PeerLayout layout = {};
  int rank = 0;
  int sharing = 1;  ///< ranks on this rank's device; more than one only where ranks are emulated
  char* arena[kMaxPeers] = {};
  uint32_t* lost = nullptr;  ///< in host memory: receives 1 + the rank that did not come
  uint64_t wait_ns = 0;      ///< how long a kernel waits for a rank
  bool counted = true;       ///< do waits count into PeerState::waited?
};

/// How a message travels.
enum class PeerAlgorithm : uint8_t {
  kOneShot,  ///< every rank sends everything to every other: one trip, for short messages
  kTwoShot,  ///< each rank sums a share of the rows and sends the sums: two trips, 2/ranks of the bytes
};

// Every rank launches the same sequence of collectives with the same sizes, each on one stream of its own. Launches may be
// captured; a replay continues where the last one stopped, because the generation is counted on the device. All blocks of the
// ranks that share a device must fit on it together, and these launches see to that for what runs alone; so ranks share a device
// in tests only, without `dependent`, each stream with a hardware queue of its own (CUDA_DEVICE_MAX_CONNECTIONS).
//
// A rank that has not come after wait_ns is noted in `lost`; results are then undefined, later kernels do nothing, and the group
// is of no use any more.
//
// Pointers of a sum must be multiples of 16, and so must the bytes of a message or of a row. Any length: a message over the layout's
// limit goes in parts. Throw UsageError naming the field otherwise.

/// y = x summed over the ranks. y may be x.
struct AllReduceParams {
  PeerAlgorithm algorithm = PeerAlgorithm::kOneShot;
  DType dtype = DType::kBF16;  ///< kF32, kF16 or kBF16
  int64_t count = 0;           ///< elements
  const void* x = nullptr;     ///< [count], this rank's
  void* y = nullptr;           ///< [count]
  bool dependent = false;      ///< programmatic dependent launch
};
void launch_all_reduce(const PeerView& peers, const AllReduceParams& params, cudaStream_t stream);

/// launch_all_reduce of norm.x, then launch_norm of the sum, which is stored nowhere: the same bits for up to 2047 rows, from
/// where launch_norm adds in another order. norm.x has norm.dtype; d is at most 512 pieces of 16 bytes.
void launch_all_reduce_norm(const PeerView& peers, PeerAlgorithm algorithm, const NormParams& norm,
                            cudaStream_t stream);
/// Can that be done for rows of d elements of this type?
bool all_reduce_norm_fits(DType dtype, int d);

/// y [ranks, bytes]: x [bytes] of every rank, in rank order. x may be its own place in y. For short shares: bytes and addresses are
/// multiples of 4, bytes at most the layout's oneshot_bytes.
void launch_all_gather(const PeerView& peers, const void* x, int64_t bytes, void* y, bool dependent,
                       cudaStream_t stream);

}  // namespace tandem::kernels
