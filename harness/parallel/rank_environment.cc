#include "harness/parallel/rank_environment.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstring>

namespace tandem {
namespace {

using Get = std::function<const char*(const char*)>;

struct Launcher {
  const char* rank;
  const char* size;
  const char* local_rank;
};
constexpr Launcher kOpenMpi = {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"};
constexpr Launcher kSlurm = {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"};
constexpr const char* kSlurmStep = "SLURM_STEP_ID";  // srun sets it, a batch script does not have it

bool any_of(const Launcher& l, const Get& get) {
  return get(l.rank) != nullptr || get(l.size) != nullptr || get(l.local_rank) != nullptr;
}

int number(const char* name, int least, const Get& get) {
  const char* text = get(name);
  if (text == nullptr)
    throw UsageError(fmt::format("{}: is missing beside the launcher's other variables", name));
  int value = 0;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
  if (error != std::errc() || *end != '\0' || value < least) {
    throw UsageError(fmt::format("{}: '{}' is not allowed; an integer from {}", name, text, least));
  }
  return value;
}

LaunchedRank read(const Launcher& l, const Get& get) {
  LaunchedRank r{.rank = number(l.rank, 0, get),
                 .size = number(l.size, 1, get),
                 .local_rank = number(l.local_rank, 0, get),
                 .rendezvous = {},
                 .by = l.size};
  if (r.rank >= r.size)
    throw UsageError(fmt::format("{}: {} contradicts {} {}", l.rank, r.rank, l.size, r.size));
  if (r.local_rank > r.rank) {
    throw UsageError(fmt::format("{}: {} contradicts {} {}", l.local_rank, r.local_rank, l.rank, r.rank));
  }
  return r;
}

}  // namespace

std::optional<LaunchedRank> launched_rank(const Get& get) {
  const char* address = get(kRendezvousVariable);
  const bool mpi = any_of(kOpenMpi, get);
  // A batch script has Slurm's variables too, and is no rank: there, ranks are started by the worker.
  const bool slurm = any_of(kSlurm, get) && (address != nullptr || get(kSlurmStep) != nullptr);
  if (!mpi && !slurm) {
    if (address == nullptr) return std::nullopt;
    throw UsageError(fmt::format("{}: is set, but neither {} nor {} is; mpirun or srun sets them",
                                 kRendezvousVariable, kOpenMpi.rank, kSlurm.rank));
  }
  LaunchedRank r = read(mpi ? kOpenMpi : kSlurm, get);
  if (mpi && slurm) {
    const LaunchedRank other = read(kSlurm, get);
    if (other.rank != r.rank || other.size != r.size) {
      throw UsageError(fmt::format(
          "{} {} of {} contradicts {} {} of {}; unset those of the launcher that did not start this process",
          kOpenMpi.rank, r.rank, r.size, kSlurm.rank, other.rank, other.size));
    }
  }
  if (r.size == 1) return std::nullopt;
  if (address == nullptr) {
    throw UsageError(
        fmt::format("{}: is missing beside {} {}; HOST:PORT of rank 0's host, the same for every rank",
                    kRendezvousVariable, r.by, r.size));
  }
  r.rendezvous = address;
  return r;
}

}  // namespace tandem
