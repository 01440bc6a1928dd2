// What engine `reference` measures in suite_limits (stream and product of this CPU), suite_kernels (the reference's own
// operations) and suite_memory (host memory, the caching level over it, the Level-1 cache).
#pragma once

#include "harness/engine/engine.h"

namespace tandem::reference {

/// Throws ImpossibleCase, naming op, for what needs a device.
OpWorkload limits_op(const Case& c);
OpWorkload kernels_op(const Case& c, const ModelConfig& config);
OpWorkload memory_op(const Case& c, const ModelConfig& config);

}  // namespace tandem::reference
