// What calibrations are chosen by, from a card.
#pragma once

#include "harness/engine/calibration.h"
#include "kernels/runtime/workloads.h"

namespace tandem::kernels {

/// The inputs of the products of the context's model, which is dense and in fp32, on calibration_batch(): read back before
/// each launch of a plan of the library's products, whose norms are kernels of their own. Throws OutOfMemory.
CalibrationStats observed_inputs(const WorkloadContext& context, const WeightLayout& calibrated);

}  // namespace tandem::kernels
