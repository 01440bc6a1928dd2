// Ranks that are processes, of one host or of several: they meet at an address, and what they exchange goes through rank 0.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "harness/parallel/communicator.h"
#include "harness/parallel/parallel.h"
#include "harness/parallel/socket.h"

namespace tandem {

/// A rank has answered with a message where the others wait for it in a collective operation: `text` is the message.
class RankAnswered : public Error {
 public:
  RankAnswered(int rank, std::string text);
  int rank() const { return rank_; }
  const std::string& text() const { return text_; }

 private:
  int rank_;
  std::string text_;
};

struct JoinOptions {
  int rank = 0;
  int size = 1;
  std::string build = {};  ///< SHA-256 of the binary: all ranks' must be the same
  double wait_s =
      kRankWait_s;     ///< of rank 0 in a collective; others wait longer, so that they hear which rank it was
  double join_s = 60;  ///< for every rank to come
  int first_rank = 0;  ///< the number that errors give to rank 0
  std::function<void()> look =
      {};  ///< called while rank 0 waits for others to come; what it throws ends the wait
};

/// A star: rank 0 holds a connection to every other rank. Buffers are host memory.
class SocketCommunicator : public Communicator {
 public:
  int rank() const override { return options_.rank; }
  int size() const override { return options_.size; }
  void all_reduce_sum(void* data, int64_t count, DType dtype, void* stream = nullptr) override;
  void all_gather(const void* mine, void* all, int64_t bytes, void* stream = nullptr) override;
  void broadcast(void* data, int64_t bytes, int root, void* stream = nullptr) override;
  void barrier(void* stream = nullptr) override;

  /// Messages between rank 0 and one other: `other` is 0 for all but rank 0. Reading waits at most `wait_s` seconds, without
  /// limit where it is absent. Throw RankLost.
  void send_text(int other, const std::string& text);
  std::string receive_text(int other, std::optional<double> wait_s);

  /// From now on every operation is refused at once: others may be gone, and whoever ends must not wait for them.
  void give_up() noexcept { broken_ = true; }

  /// The ranks of one replica, over sockets of their own. This communicator has all ranks; call it on every one.
  std::unique_ptr<SocketCommunicator> join_replica(const RankGroup& group);

 private:
  friend std::unique_ptr<SocketCommunicator> join_as_first(const Listener&, JoinOptions);
  friend std::unique_ptr<SocketCommunicator> join_ranks(const std::string&, JoinOptions);

  explicit SocketCommunicator(JoinOptions options);
  /// What every rank gives, in rank order, is made into what every rank gets.
  using Combine = std::function<std::string(std::vector<std::string>& given)>;
  std::string exchange(const CollectiveCall& call, std::string mine, const Combine& combine);
  std::string exchange_by_star(const CollectiveCall& call, std::string mine, const Combine& combine);
  std::vector<std::string> gather(const CollectiveCall& call, std::string mine);
  std::string ask(const CollectiveCall& call, const std::string& mine);
  void tell_others(FrameKind kind, const std::string& why) noexcept;
  [[noreturn]] void lose(int rank, const std::string& why);

  JoinOptions options_;
  std::vector<Socket> peers_;  // [size] on rank 0, without its own; [1], rank 0's, on others
  bool broken_ = false;        // an operation failed: frames of it may still be under way
};

/// Rank 0 at an address where it listens already. Waits until all ranks have come. Throws UsageError naming what contradicts
/// (size, rank, build), RankLost for the first rank that did not come.
std::unique_ptr<SocketCommunicator> join_as_first(const Listener& listener, JoinOptions options);
/// The same for any rank; rank 0 listens at `address`, others connect to it until join_s is over.
std::unique_ptr<SocketCommunicator> join_ranks(const std::string& address, JoinOptions options);

/// Every rank's text, in rank order. Host memory only.
std::vector<std::string> all_gather_text(Communicator& ranks, const std::string& mine);

}  // namespace tandem
