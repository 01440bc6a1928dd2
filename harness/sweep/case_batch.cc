#include "harness/sweep/case_batch.h"

namespace tandem {

std::vector<int32_t> case_lengths(const Case& c) {
  return source_lengths(parse_lengths(c.lengths), c.batch, c.src, kInputSeed);
}

TransformerBatch case_batch(const Case& c, const ModelConfig& config) {
  return source_batch(config, parse_lengths(c.lengths), c.batch, c.src, kInputSeed);
}

}  // namespace tandem
