// Which way a message goes: the `allreduce` axis, and what was measured of each way by size.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::kernels {

/// The `allreduce` axis.
enum class AllReduceChoice : uint8_t { kAuto, kNccl, kOneShot, kTwoShot };
/// Throws UsageError naming the allowed ones.
AllReduceChoice parse_all_reduce(std::string_view text);

enum class CollectiveWay : uint8_t { kOneShot, kTwoShot, kNccl };
std::string_view way_name(CollectiveWay way);  // oneshot twoshot nccl

/// The fastest way of messages by size: each entry holds up to its size, the last one beyond.
class CollectiveTable {
 public:
  /// By bytes and links of NVLink, until measured: one trip for short messages, two for longer ones.
  static CollectiveTable guessed(int ranks);
  /// Of microseconds [size][way], a way that was not measured being 0 or less. `sizes` ascend. A size's answer holds for messages
  /// nearer to it, by ratio, than to its neighbours. Throws UsageError for a size without any time.
  static CollectiveTable measured(const std::vector<int64_t>& sizes,
                                  const std::vector<std::map<CollectiveWay, double>>& us);

  CollectiveWay way(int64_t bytes) const;
  /// "oneshot:262144 twoshot:4194304 nccl": for the choice file and for people; parse() is its inverse and throws UsageError.
  std::string text() const;
  static CollectiveTable parse(std::string_view text);
  bool operator==(const CollectiveTable&) const = default;

 private:
  struct Entry {
    CollectiveWay way;
    int64_t up_to;  ///< bytes; of the last entry everything
    bool operator==(const Entry&) const = default;
  };
  std::vector<Entry> entries_;
};

/// The way of a message of so many bytes: the one that is forced, or the table's. Where peers cannot reach each other (`no_peers` says
/// why) kAuto leaves all to NCCL; where there is no NCCL, its share of the table goes by two shots. `no_nccl` meets the ranks in NCCL,
/// and says why it cannot; asked only where NCCL's way matters. Throws ImpossibleCase naming the axis for a way that is not there.
CollectiveWay way_of(AllReduceChoice choice, int64_t bytes, const CollectiveTable& table,
                     const std::string& no_peers, const std::function<std::string()>& no_nccl);
/// For records and people: the forced way, the table, or "nccl: ranks 0 and 1: devices cannot reach each other's memory".
std::string ways_text(AllReduceChoice choice, const CollectiveTable& table, const std::string& no_peers);

}  // namespace tandem::kernels
