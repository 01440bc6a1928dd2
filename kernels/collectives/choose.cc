#include "kernels/collectives/choose.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

#include "harness/base/error.h"

namespace tandem::kernels {
namespace {

constexpr int64_t kBeyond = std::numeric_limits<int64_t>::max();
constexpr CollectiveWay kWays[] = {CollectiveWay::kOneShot, CollectiveWay::kTwoShot, CollectiveWay::kNccl};

}  // namespace

std::string_view way_name(CollectiveWay way) {
  switch (way) {
    case CollectiveWay::kOneShot:
      return "oneshot";
    case CollectiveWay::kTwoShot:
      return "twoshot";
    default:
      return "nccl";
  }
}

AllReduceChoice parse_all_reduce(std::string_view text) {
  if (text == "auto") return AllReduceChoice::kAuto;
  if (text == "nccl") return AllReduceChoice::kNccl;
  if (text == "oneshot") return AllReduceChoice::kOneShot;
  if (text == "twoshot") return AllReduceChoice::kTwoShot;
  throw UsageError("allreduce: '" + std::string(text) + "' is not allowed; auto nccl oneshot twoshot");
}

CollectiveTable CollectiveTable::guessed(int ranks) {
  CollectiveTable t;
  // One shot sends 2 (ranks - 1) times the message, two shots 2 (ranks - 1) / ranks times, and a trip of 2 us more.
  t.entries_ = {{CollectiveWay::kOneShot, (int64_t{1} << 20) / ranks}, {CollectiveWay::kTwoShot, kBeyond}};
  return t;
}

CollectiveTable CollectiveTable::measured(const std::vector<int64_t>& sizes,
                                          const std::vector<std::map<CollectiveWay, double>>& us) {
  CollectiveTable t;
  for (size_t i = 0; i < sizes.size(); ++i) {
    std::optional<CollectiveWay> best;
    for (const auto& [way, time] : us.at(i)) {
      if (time > 0 && (!best || time < us[i].at(*best))) best = way;
    }
    if (!best) throw UsageError("collectives: no way was measured at " + std::to_string(sizes[i]) + " bytes");
    const int64_t up_to =
        i + 1 == sizes.size()
            ? kBeyond
            : std::llround(std::sqrt(static_cast<double>(sizes[i]) * static_cast<double>(sizes[i + 1])));
    if (!t.entries_.empty() && t.entries_.back().way == *best) {
      t.entries_.back().up_to = up_to;
    } else {
      t.entries_.push_back({*best, up_to});
    }
  }
  if (t.entries_.empty()) throw UsageError("collectives: nothing was measured");
  return t;
}

CollectiveWay CollectiveTable::way(int64_t bytes) const {
  for (const Entry& e : entries_) {
    if (bytes <= e.up_to) return e.way;
  }
  return CollectiveWay::kNccl;
}

std::string CollectiveTable::text() const {
  std::string text;
  for (const Entry& e : entries_) {
    if (!text.empty()) text += ' ';
    text += way_name(e.way);
    if (e.up_to != kBeyond) text += ':' + std::to_string(e.up_to);
  }
  return text;
}

CollectiveTable CollectiveTable::parse(std::string_view text) {
  const auto refuse = [&] {
    throw UsageError(
        "collectives: '" + std::string(text) +
        "' is not allowed; ways oneshot, twoshot or nccl, all but the last with :BYTES, ascending");
  };
  CollectiveTable t;
  while (true) {
    const size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    const size_t colon = std::min(word.find(':'), word.size());
    Entry e{CollectiveWay::kNccl, kBeyond};
    bool known = false;
    for (const CollectiveWay way : kWays) {
      if (word.substr(0, colon) != way_name(way)) continue;
      e.way = way;
      known = true;
    }
    if (!known) refuse();
    if (colon < word.size()) {
      const auto [stop, error] = std::from_chars(word.data() + colon + 1, word.data() + word.size(), e.up_to);
      if (error != std::errc() || stop != word.data() + word.size() || e.up_to < 1 || e.up_to == kBeyond)
        refuse();
    }
    const bool last = end == text.size();
    if (last != (e.up_to == kBeyond)) refuse();
    if (!t.entries_.empty() && e.up_to <= t.entries_.back().up_to) refuse();
    t.entries_.push_back(e);
    if (last) return t;
    text.remove_prefix(end + 1);
  }
}

CollectiveWay way_of(AllReduceChoice choice, int64_t bytes, const CollectiveTable& table,
                     const std::string& no_peers, const std::function<std::string()>& no_nccl) {
  const auto by_nccl = [&] {
    if (const std::string why = no_nccl(); !why.empty()) {
      throw ImpossibleCase("allreduce: nccl: " + why +
                           (no_peers.empty() ? "" : "; own kernels: " + no_peers));
    }
    return CollectiveWay::kNccl;
  };
  if (choice == AllReduceChoice::kNccl) return by_nccl();
  if (choice == AllReduceChoice::kAuto) {
    if (!no_peers.empty()) return by_nccl();
    const CollectiveWay way = table.way(bytes);
    return way == CollectiveWay::kNccl && !no_nccl().empty() ? CollectiveWay::kTwoShot : way;
  }
  const CollectiveWay way =
      choice == AllReduceChoice::kOneShot ? CollectiveWay::kOneShot : CollectiveWay::kTwoShot;
  if (!no_peers.empty()) throw ImpossibleCase("allreduce: " + std::string(way_name(way)) + ": " + no_peers);
  return way;
}

std::string ways_text(AllReduceChoice choice, const CollectiveTable& table, const std::string& no_peers) {
  switch (choice) {
    case AllReduceChoice::kNccl:
      return "nccl";
    case AllReduceChoice::kOneShot:
      return "oneshot";
    case AllReduceChoice::kTwoShot:
      return "twoshot";
    default:
      return no_peers.empty() ? table.text() : "nccl: " + no_peers;
  }
}

}  // namespace tandem::kernels
