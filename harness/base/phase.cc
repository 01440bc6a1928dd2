#include "harness/base/phase.h"

#include <fmt/format.h>

#include "harness/base/error.h"

namespace tandem {
namespace {

constexpr std::array<std::string_view, kPhaseKinds> kNames = {
    "embed",     "norm",     "self.qkv", "self.attention", "self.out", "cross.qkv", "cross.attention",
    "cross.out", "cross.kv", "ffn.up",   "ffn.down",       "head",     "select",    "comm"};

PhaseObserver current_observer;

}  // namespace

void set_phase_observer(const PhaseObserver& observer) {
  current_observer = observer;
}

const PhaseObserver& phase_observer() {
  return current_observer;
}

std::string_view phase_name(PhaseKind kind) {
  return kNames.at(static_cast<size_t>(kind));
}

PhaseKind parse_phase(std::string_view name) {
  for (int i = 0; i < kPhaseKinds; ++i) {
    if (kNames[i] == name) return static_cast<PhaseKind>(i);
  }
  throw UsageError(fmt::format("phase: '{}' is not one of {}", name, fmt::join(kNames, " ")));
}

std::string_view side_name(Side side) {
  return side == Side::kEncoder ? "encoder" : "decoder";
}

std::string phase_path(const Phase& phase) {
  if (phase.layer < 0) return fmt::format("{}/{}", side_name(phase.side), phase_name(phase.kind));
  return fmt::format("{}/{}/{}", side_name(phase.side), phase.layer, phase_name(phase.kind));
}

}  // namespace tandem
