#include "harness/run/clocks.h"

#include <cstdlib>

#include "harness/run/nvml.h"

namespace tandem {
namespace {

class NvmlClocks : public ClockReader {
 public:
  explicit NvmlClocks(int card) : card_(card) {}

  ClockBlock read() override {
    CardReading now = read_block(nvml(), card_);
    ClockBlock block;
    block.sm_mhz = now.sm_mhz;
    block.temperature_c = now.temperature_c;
    block.power_w = now.power_w;
    block.reasons = std::move(now.reasons);
    return block;
  }

  std::optional<bool> contended() override { return card_contended(nvml(), card_); }

 private:
  int card_;
};

}  // namespace

std::unique_ptr<ClockReader> make_clock_reader(int device) {
  const auto card = visible_card(nvml_cards(nvml()), std::getenv("CUDA_VISIBLE_DEVICES"), device);
  if (!card) return std::make_unique<NoClocks>();
  return std::make_unique<NvmlClocks>(card->index);
}

}  // namespace tandem
