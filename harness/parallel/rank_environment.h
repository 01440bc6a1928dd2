// Where a launcher says that this process stands: `mpirun` and `srun` set variables, an address says where the ranks meet.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "harness/parallel/communicator.h"
#include "harness/parallel/parallel.h"

namespace tandem {

/// "host:port" of rank 0 ("unix:/path" on one host): set together with the variables of one launcher.
inline constexpr const char* kRendezvousVariable = "TANDEM_RENDEZVOUS";

struct LaunchedRank {
  int rank = 0;
  int size = 1;
  int local_rank = 0;      ///< among the ranks of this host: which device
  std::string rendezvous;  ///< where the ranks meet
  std::string by;          ///< "OMPI_COMM_WORLD_SIZE": the variable that `size` is from
};

/// Of OMPI_COMM_WORLD_{RANK,SIZE,LOCAL_RANK} or SLURM_{PROCID,NTASKS,LOCALID}, and TANDEM_RENDEZVOUS. Absent where no launcher
/// started several ranks: in a batch script of Slurm outside srun, and under a launcher of one process. `get`: as getenv.
/// Throws UsageError naming the variable that is missing, is no number, or contradicts another one.
std::optional<LaunchedRank> launched_rank(const std::function<const char*(const char*)>& get);

/// An engine's place among the ranks that compute a case together.
struct RankSeat {
  RankGroup group;
  /// Of this replica's ranks, over sockets: buffers in host memory. An engine on devices tells with it where its own is.
  Communicator* tensor = nullptr;
};

}  // namespace tandem
