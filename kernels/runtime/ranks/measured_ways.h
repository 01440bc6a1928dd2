// Which way is the fastest by size, measured on the ranks at hand and kept for the processes of a run.
#pragma once

#include <string>

#include "harness/parallel/communicator.h"
#include "kernels/runtime/ranks/device_ranks.h"

namespace tandem::kernels {

/// Every rank calls it; the answer is the same on all. From `path`, "<run>/allreduce-choices.json", where it is known for so many
/// ranks of this card; otherwise measured and kept there if `may_search`, guessed if not. `path` may be empty. The slowest rank's
/// time of a way counts. Throws UsageError for a file that makes no sense, naming it, and what collectives throw.
CollectiveTable measured_ways(DeviceRanks& ranks, Communicator& control, cudaStream_t stream,
                              const std::string& path, bool may_search);

}  // namespace tandem::kernels
