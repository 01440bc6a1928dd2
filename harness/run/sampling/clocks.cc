#include "harness/run/sampling/clocks.h"

#include <algorithm>
#include <cmath>

#include "harness/base/stats.h"

namespace tandem {
namespace {

class NvmlClocks : public ClockReader {
 public:
  NvmlClocks(const NvmlFunctions* functions, int card) : functions_(functions), card_(card) {}

  ClockBlock read() override {
    CardReading now = read_block(functions_, card_);
    ClockBlock block;
    block.sm_mhz = now.sm_mhz;
    block.temperature_c = now.temperature_c;
    block.power_w = now.power_w;
    block.reasons = std::move(now.reasons);
    return block;
  }

  std::optional<bool> contended() override { return card_contended(functions_, card_); }

 private:
  const NvmlFunctions* functions_;
  int card_;
};

}  // namespace

std::optional<ClockState> clock_state(const std::vector<ClockBlock>& blocks, bool warmup_steady,
                                      double agreement) {
  const auto any = [&](auto&& holds) { return std::any_of(blocks.begin(), blocks.end(), holds); };
  if (!any([](const ClockBlock& b) { return b.sm_mhz || b.mean_sm_mhz; })) return std::nullopt;
  if (any([](const ClockBlock& b) { return !b.reasons.empty(); })) return ClockState::kThrottled;
  std::vector<double> half[2];
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i].mean_sm_mhz) half[2 * i >= blocks.size()].push_back(*blocks[i].mean_sm_mhz);
  }
  bool steady = warmup_steady;
  if (!half[0].empty() && !half[1].empty()) {
    const double before = median(half[0]), after = median(half[1]);
    steady = steady && std::abs(after - before) <= agreement * std::max(before, after);
  }
  return steady ? ClockState::kSettled : ClockState::kNotSettled;
}

std::unique_ptr<ClockReader> make_clock_reader(const NvmlFunctions* functions,
                                               const std::optional<CardInfo>& card) {
  if (!card) return std::make_unique<NoClocks>();
  return std::make_unique<NvmlClocks>(functions, card->index);
}

}  // namespace tandem
