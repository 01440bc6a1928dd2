#include "harness/run/passes.h"

#include <algorithm>

namespace tandem {

Output run_once(Engine& engine, const Case& c, const TransformerBatch& batch) {
  const auto workload = engine.prepare(c, batch);
  workload->repeat();
  return workload->output();
}

int logit_steps(const ModelConfig& config, int batch, int tgt, int64_t max_logits) {
  return static_cast<int>(std::clamp<int64_t>(max_logits / (int64_t{batch} * config.vocab), 1, tgt));
}

std::vector<int32_t> retrace_inputs(const ModelConfig& config, const Output& generated, int batch, int tgt,
                                    int steps) {
  std::vector<int32_t> inputs(static_cast<size_t>(batch) * steps);
  for (int b = 0; b < batch; ++b) {
    for (int t = 0; t < steps; ++t) {
      inputs[static_cast<size_t>(b) * steps + t] =
          t == 0 ? config.decoder_start_id : generated.tokens[static_cast<size_t>(b) * tgt + t - 1];
    }
  }
  return inputs;
}

}  // namespace tandem
