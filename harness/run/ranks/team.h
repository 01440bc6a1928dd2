// The ranks of a case, as rank 0 sees them: processes that it started, or that a launcher did. Rank 0 says what is to be done
// next, and every rank does it.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "harness/base/process.h"
#include "harness/parallel/rank_environment.h"
#include "harness/parallel/socket_communicator.h"

namespace tandem {

/// How a worker starts ranks: `command` and the flags that follow() takes.
struct RankLaunch {
  std::vector<std::string> command = {};      ///< this very program where it is empty
  int device = 0;                             ///< of rank 0; rank r uses device + r
  std::optional<LaunchedRank> launched = {};  ///< a launcher has started all ranks
  double wait_s = kRankWait_s;
  double join_s = 60;
};

class RankTeam {
 public:
  /// Rank 0 of `ranks`: starts the others, or meets those that a launcher started. Throws UsageError where the launcher started
  /// another number, or what contradicts (SocketCommunicator), RankLost naming the rank that did not come.
  RankTeam(int ranks, const RankLaunch& launch);
  ~RankTeam();
  RankTeam(const RankTeam&) = delete;
  RankTeam& operator=(const RankTeam&) = delete;

  int size() const { return world_->size(); }
  SocketCommunicator& world() { return *world_; }
  /// Has every call so far left all ranks in step? If not, the team can only be given up.
  bool usable() const { return usable_; }

  /// All ranks do what `command` says, this one by `own`. What the others answer, from rank 1 on. Throws what this rank or
  /// another throws: ImpossibleCase, OutOfMemory, RankLost saying how the process ended, Error.
  std::vector<nlohmann::json> together(const nlohmann::json& command, const std::function<void()>& own);

 private:
  std::vector<nlohmann::json> answers(double wait_s);
  [[noreturn]] void throw_lost(const RankLost& lost);

  std::vector<Companion> companions_;  // of rank 1, 2, ...; none of a launcher
  std::unique_ptr<SocketCommunicator> world_;
  double wait_s_ = 0;
  bool usable_ = true;
};

/// SHA-256 of this program: ranks of other builds are refused.
std::string own_build();

}  // namespace tandem
