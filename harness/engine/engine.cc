#include "harness/engine/engine.h"

#include <fmt/format.h>

#include "harness/base/error.h"
#include "harness/base/random.h"
#include "harness/sweep/values.h"

namespace tandem {

EngineTraits engine_traits(std::string_view name) {
  const bool reference = name == kTruthEngine;
  return {.on_host = reference, .is_truth = reference};
}

std::vector<int32_t> decoder_prefix(const ModelConfig& config, int batch, int steps, uint64_t seed) {
  std::vector<int32_t> ids(static_cast<size_t>(batch) * steps);
  const uint64_t key = stream_key(seed, "decoder.prefix");
  for (int b = 0; b < batch; ++b) {
    for (int t = 0; t < steps; ++t) {
      const size_t i = static_cast<size_t>(b) * steps + t;
      int32_t id = config.decoder_start_id;
      // A function of (sequence, step) alone, so that a longer prefix begins with the shorter one.
      uint64_t draw = (static_cast<uint64_t>(b) << 32) + static_cast<uint64_t>(t);
      while (t > 0 && (id == config.decoder_start_id || id == config.eos_id || id == config.pad_id)) {
        id = static_cast<int32_t>(uniform_below(key, draw, static_cast<uint32_t>(config.vocab)));
        draw += uint64_t{1} << 16;
      }
      ids[i] = id;
    }
  }
  return ids;
}

std::vector<std::vector<Sequence>> Engine::decode(const TransformerBatch&, const GenerationConfig&,
                                                  std::span<const uint64_t>) {
  throw ImpossibleCase(fmt::format("decode: engine '{}' does not decode by rules", name()));
}

CalibrationStats Engine::observed_inputs(const WeightLayout&) {
  throw ImpossibleCase(fmt::format("calibration: engine '{}' has none", name()));
}

GenerationConfig case_generation(const Case& c, const ModelConfig& config) {
  GenerationConfig g;
  g.decoder_start_id = config.decoder_start_id;
  g.pad_id = config.pad_id;
  if (c.stop == "eos") g.eos_ids = {config.eos_id};
  g.max_length = c.tgt + 1;
  g.top_k = 0;  // all, where the axis names none; a file's default is 50
  return with_decode(g, parse_decode(c.decode));
}

}  // namespace tandem
