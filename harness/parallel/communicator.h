// What ranks of a group do together.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/tensor.h"

namespace tandem {

/// A rank died, or is silent for longer than it may be. The group is of no use any more.
class RankLost : public Error {
 public:
  /// `why`: "closed its connection". The message names the rank.
  RankLost(int rank, const std::string& why);
  /// Of the rank's place in its run, from 0.
  int rank() const { return rank_; }
  const std::string& why() const { return why_; }

 private:
  int rank_;
  std::string why_;
};

/// Waits of a collective end after so many seconds, in RankLost.
inline constexpr double kRankWait_s = 10;

/// Collective operations: every rank of the group calls the same ones with the same sizes in the same order. Buffers are
/// device memory for a device communicator, host memory otherwise; `stream` is the device's stream that the work goes to,
/// null on a host. Every wait is bounded. Each operation throws RankLost naming the rank that did not come, and Error where
/// ranks call different operations.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// Sums `count` elements over all ranks, in place: in fp32, in rank order, rounded once. Every rank gets the same bits.
  /// `dtype` is kF32, kF16 or kBF16; throws UsageError for others.
  virtual void all_reduce_sum(void* data, int64_t count, DType dtype, void* stream) = 0;
  /// `all` [size, bytes] holds `mine` [bytes] of every rank, in rank order. `mine` may be its own place in `all`.
  virtual void all_gather(const void* mine, void* all, int64_t bytes, void* stream) = 0;
  /// `data` [bytes] becomes that of rank `root`.
  virtual void broadcast(void* data, int64_t bytes, int root, void* stream) = 0;
  /// Returns once every rank has called it and the work on `stream` before it is done.
  virtual void barrier(void* stream) = 0;
};

/// The group of one rank: nothing to exchange.
std::unique_ptr<Communicator> make_single_communicator();

/// `size` ranks that are threads of one process, one communicator each, for host memory. One that is destroyed is lost to the
/// others.
std::vector<std::unique_ptr<Communicator>> make_local_communicators(int size, double wait_s = kRankWait_s);

/// sum[i] = inputs[0][i] + inputs[1][i] + ...: in fp32, in this order, rounded once to `dtype`. `sum` may be one of the
/// inputs. What all_reduce_sum computes. Throws UsageError for a type that is not kF32, kF16 or kBF16.
void sum_in_rank_order(std::span<const void* const> inputs, void* sum, int64_t count, DType dtype);

}  // namespace tandem
