#include "kernels/runtime/observed_inputs.h"

#include <variant>

#include "kernels/runtime/decoding_run.h"

namespace tandem::kernels {

CalibrationStats observed_inputs(const WorkloadContext& context, const WeightLayout& calibrated) {
  context.device->activate();
  const DeviceModel& model = *context.model;
  const CalibrationBatch batch = calibration_batch(model.config);
  InputObserver observer(calibrated, model.layout, model.arena.data());
  Decoding decoding(context, batch.source, {.kernel = KernelChoice::kLibrary, .capacity = batch.steps});
  PlanExecutor& run = decoding.run();
  const MemoryBlock columns = decoding.upload_columns(batch.tokens, batch.steps);
  run.observe([&](const PlanOp& op) {
    const auto* dense = std::get_if<DenseOp>(&op.body);
    InputStats* stats = dense == nullptr ? nullptr : observer.of(dense->weight.weight.data);
    if (stats != nullptr) stats->add(run.floats(dense->x), dense->x.rows);
  });
  decoding.start(0);
  decoding.encode();
  for (int t = 0; t < batch.steps; ++t) {
    decoding.feed(static_cast<const int32_t*>(columns.data()) + int64_t{t} * decoding.batch());
    run.run(PlanSection::kStep);
  }
  context.device->synchronize();
  return observer.take();
}

}  // namespace tandem::kernels
