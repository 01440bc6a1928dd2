// PhaseRange for builds without CUDA: nothing to mark.
#include "harness/base/phase.h"

namespace tandem {

PhaseRange::PhaseRange(const Phase& phase) {
  if (phase_observer().enter != nullptr) phase_observer().enter(phase);
}

PhaseRange::~PhaseRange() {
  if (phase_observer().leave != nullptr) phase_observer().leave();
}

MarkedRange::MarkedRange(const char*) {}
MarkedRange::~MarkedRange() = default;

}  // namespace tandem
