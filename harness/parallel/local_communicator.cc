// Ranks that are threads of one process.
#include <fmt/format.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>

#include "harness/parallel/collective_call.h"
#include "harness/parallel/communicator.h"

namespace tandem {
namespace {

/// What the ranks share. An operation is two meetings: at the first every rank has laid down what it gives, after the second
/// all have read it.
class Meeting {
 public:
  struct Place {
    CollectiveCall call;
    const void* data = nullptr;
    uint64_t meetings = 0;  ///< that it has come to
    bool gone = false;
  };

  Meeting(int size, double wait_s) : places(static_cast<size_t>(size)), wait_s_(wait_s) {}

  /// Returns once every rank has come as often as `rank`. What a rank wrote before it came is visible then.
  void meet(int rank) {
    std::unique_lock lock(mutex_);
    const uint64_t mine = ++places[rank].meetings;
    changed_.notify_all();
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(wait_s_);
    for (;;) {
      if (lost_) throw *lost_;
      const int missing = first_missing(mine);
      if (missing < 0) return;
      if (places[missing].gone) lose({missing, "is gone"});
      if (changed_.wait_until(lock, deadline) == std::cv_status::timeout && first_missing(mine) >= 0) {
        lose({first_missing(mine), fmt::format("was silent for {:g} s", wait_s_)});
      }
    }
  }

  void leave(int rank) {
    const std::lock_guard lock(mutex_);
    places[rank].gone = true;
    changed_.notify_all();
  }

  std::vector<Place> places;

 private:
  int first_missing(uint64_t meeting) const {
    for (size_t r = 0; r < places.size(); ++r) {
      if (places[r].meetings < meeting) return static_cast<int>(r);
    }
    return -1;
  }
  /// All ranks name the same one.
  [[noreturn]] void lose(const RankLost& lost) {
    if (!lost_) lost_ = lost;
    changed_.notify_all();
    throw RankLost(*lost_);
  }

  const double wait_s_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<RankLost> lost_;
};

class LocalCommunicator : public Communicator {
 public:
  LocalCommunicator(std::shared_ptr<Meeting> meeting, int rank) : meeting_(std::move(meeting)), rank_(rank) {}
  ~LocalCommunicator() override { meeting_->leave(rank_); }

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(meeting_->places.size()); }

  void all_reduce_sum(void* data, int64_t count, DType dtype, void*) override {
    const int64_t bytes = tensor_bytes(dtype, count);
    std::vector<char> sum(static_cast<size_t>(bytes));
    together(
        {.kind = CollectiveKind::kAllReduce, .dtype = dtype, .bytes = bytes}, data,
        [&](const std::vector<const void*>& inputs) { sum_in_rank_order(inputs, sum.data(), count, dtype); });
    std::memcpy(data, sum.data(), sum.size());
  }

  void all_gather(const void* mine, void* all, int64_t bytes, void*) override {
    std::vector<char> gathered(static_cast<size_t>(bytes * size()));  // `mine` may lie in `all`
    together({.kind = CollectiveKind::kAllGather, .bytes = bytes}, mine,
             [&](const std::vector<const void*>& inputs) {
               for (size_t r = 0; r < inputs.size(); ++r) {
                 std::memcpy(gathered.data() + r * static_cast<size_t>(bytes), inputs[r],
                             static_cast<size_t>(bytes));
               }
             });
    std::memcpy(all, gathered.data(), gathered.size());
  }

  void broadcast(void* data, int64_t bytes, int root, void*) override {
    together({.kind = CollectiveKind::kBroadcast, .root = static_cast<uint16_t>(root), .bytes = bytes}, data,
             [&](const std::vector<const void*>& inputs) {
               if (root != rank_) std::memcpy(data, inputs[root], static_cast<size_t>(bytes));
             });
  }

  void barrier(void*) override {
    together({}, nullptr, [](const std::vector<const void*>&) {});
  }

 private:
  template <typename Read>
  void together(const CollectiveCall& call, const void* mine, Read&& read) {
    std::vector<Meeting::Place>& places = meeting_->places;
    places[rank_].call = call;
    places[rank_].data = mine;
    meeting_->meet(rank_);
    std::vector<const void*> inputs;
    for (int r = 0; r < size(); ++r) {
      check_same_call(rank_, call, r, places[r].call);
      inputs.push_back(places[r].data);
    }
    read(inputs);
    meeting_->meet(rank_);
  }

  std::shared_ptr<Meeting> meeting_;
  const int rank_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_local_communicators(int size, double wait_s) {
  if (size < 1) throw UsageError(fmt::format("ranks: {} is not 1 or more", size));
  auto meeting = std::make_shared<Meeting>(size, wait_s);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int r = 0; r < size; ++r) ranks.push_back(std::make_unique<LocalCommunicator>(meeting, r));
  return ranks;
}

}  // namespace tandem
