// What the launchers of both algorithms take. Internal to the collectives.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/collectives/peer_reduce.h"

namespace tandem::kernels {

/// `row` describes rows in any case: of a plain message, x, y, rows and d alone. A thread works on one piece of a row.
struct PeerArgs {
  PeerView peers;
  NormParams row;
  int64_t count = 0;  ///< elements of the message: the last row of a plain one may be a part
};

// `args` has been checked.
void launch_one_shot(const PeerArgs& args, bool norm, cudaStream_t stream);
/// args.row.x, y and dependent; args.count words of four bytes: of one rank's share.
void launch_gather(const PeerArgs& args, cudaStream_t stream);
/// At least a row a rank.
void launch_two_shot(const PeerArgs& args, bool norm, cudaStream_t stream);

}  // namespace tandem::kernels
