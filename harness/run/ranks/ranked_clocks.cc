#include "harness/run/ranks/ranked_clocks.h"

#include <algorithm>
#include <set>
#include <string>

#include "harness/base/stats.h"
#include "harness/run/ranks/wire.h"

namespace tandem {
namespace {

using nlohmann::json;

/// Of the readings that have the field; absent where none has.
std::optional<double> median_of(std::span<const RankReading> readings,
                                std::optional<double> ClockBlock::*field) {
  std::vector<float> known;
  for (const RankReading& r : readings) {
    if (const auto& v = r.block.*field) known.push_back(static_cast<float>(*v));
  }
  if (known.empty()) return std::nullopt;
  return median(std::move(known));
}

}  // namespace

RankReading read_rank(ClockReader& clocks) {
  RankReading r{.block = clocks.read(), .contended = {}};
  r.contended = clocks.contended();
  return r;
}

RankedClocks::RankedClocks(RankTeam& team, std::unique_ptr<ClockReader> own)
    : team_(team), own_(std::move(own)), readings_(static_cast<size_t>(team.size())) {}

ClockBlock RankedClocks::read() {
  RankReading mine;
  const auto answers = team_.together({{"call", "clocks"}}, [&] { mine = read_rank(*own_); });
  readings_[0].push_back(mine);
  std::set<std::string> reasons(mine.block.reasons.begin(), mine.block.reasons.end());
  for (size_t i = 0; i < answers.size(); ++i) {
    readings_[i + 1].push_back(reading_from_json(answers[i].at("clocks")));
    const auto& of_other = readings_[i + 1].back().block.reasons;
    reasons.insert(of_other.begin(), of_other.end());
  }
  mine.block.reasons.assign(reasons.begin(), reasons.end());
  return mine.block;
}

std::optional<bool> RankedClocks::contended() {
  std::optional<bool> any;
  for (const auto& of_rank : readings_) {
    if (of_rank.empty() || !of_rank.back().contended) continue;
    any = any.value_or(false) || *of_rank.back().contended;
  }
  return any;
}

void RankedClocks::fill(std::vector<RankRecord>& ranks, size_t blocks) const {
  for (size_t r = 0; r < std::min(ranks.size(), readings_.size()); ++r) {
    const auto& all = readings_[r];
    const size_t n = std::min(blocks, all.size());
    if (n == 0) continue;
    const std::span<const RankReading> last(all.data() + all.size() - n, n);
    RankClocks clocks = ranks[r].clocks.value_or(RankClocks{});
    clocks.sm_mhz = median_of(last, &ClockBlock::sm_mhz);
    clocks.temperature_c = median_of(last, &ClockBlock::temperature_c);
    clocks.power_w = median_of(last, &ClockBlock::power_w);
    std::set<std::string> reasons;
    clocks.throttled_blocks = 0;
    for (const RankReading& reading : last) {
      if (!reading.block.reasons.empty()) ++*clocks.throttled_blocks;
      reasons.insert(reading.block.reasons.begin(), reading.block.reasons.end());
      if (reading.contended) clocks.contended = clocks.contended.value_or(false) || *reading.contended;
    }
    clocks.reasons.assign(reasons.begin(), reasons.end());
    ranks[r].clocks = std::move(clocks);
  }
}

std::vector<std::optional<double>> joules_of_ranks(RankTeam& team, const std::optional<double>& own) {
  std::vector<std::optional<double>> all = {own};
  for (const json& answer : team.together({{"call", "joules"}}, [] {}))
    all.push_back(optional_number(answer.at("joules")));
  return all;
}

}  // namespace tandem
