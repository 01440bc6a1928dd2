// PhaseRange for builds without CUDA: nothing to mark.
#include "harness/base/phase.h"

namespace tandem {

PhaseRange::PhaseRange(const Phase&) {}
PhaseRange::~PhaseRange() = default;

}  // namespace tandem
