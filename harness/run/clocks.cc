#include "harness/run/clocks.h"

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

std::unique_ptr<ClockReader> make_clock_reader(const NvmlFunctions* functions,
                                               const std::optional<CardInfo>& card) {
  if (!card) return std::make_unique<NoClocks>();
  return std::make_unique<NvmlClocks>(functions, card->index);
}

}  // namespace tandem
