// Whole sequences: greedy generation, and teacher-forced logits with and without a K/V cache.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "harness/model/batch.h"
#include "harness/model/config.h"
#include "harness/weights/weights.h"
#include "reference/ops/matrix.h"
#include "reference/ops/quantise.h"

namespace tandem::reference {

struct GreedyOptions {
  int max_tokens = 1;
  bool stop_at_eos = false;  ///< a sequence ends with its first eos; what would follow is pad
  bool keep_logits = false;
  Numerics numerics = {};
  /// When given: called with -1 once the source is encoded, then with the step after each step's tokens are
  /// known.
  std::function<void(int step)> progress{};
};

struct Generated {
  std::vector<int32_t> tokens;   ///< [batch, max_tokens], decoder start not included
  std::vector<int32_t> lengths;  ///< [batch], tokens before padding, eos included
  Matrix logits;                 ///< [max_tokens * batch, vocab], step-major, when asked for
};

/// Encodes and takes the arg-max token max_tokens times; all sequences step together, so a finished one is
/// fed pad and its later logits mean nothing. Ends early, later logits zero, when every sequence has
/// ended.
Generated greedy_generate(const ModelConfig& config, const ModelWeights& w, const TransformerBatch& source,
                          const GreedyOptions& options);

/// Logits [steps * batch, vocab], step-major, when step t is fed tokens[b * steps + t] (tokens[b * steps]
/// being the decoder's start). Decodes with the K/V cache.
Matrix forced_logits(const ModelConfig& config, const ModelWeights& w, const TransformerBatch& source,
                     std::span<const int32_t> tokens, int steps, const Numerics& numerics = {});

/// The same without a cache.
Matrix forced_logits_uncached(const ModelConfig& config, const ModelWeights& w,
                              const TransformerBatch& source, std::span<const int32_t> tokens, int steps,
                              const Numerics& numerics = {});

}  // namespace tandem::reference
