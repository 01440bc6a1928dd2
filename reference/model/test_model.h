// Tests only: a seeded model in memory, and the seed of a test run.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "harness/base/random.h"
#include "harness/base/testing/test_seed.h"
#include "harness/model/batch.h"
#include "harness/model/config.h"
#include "harness/weights/materialise.h"

namespace tandem::reference {

/// One seed for all tests of a run.
inline uint64_t run_seed() {
  static const uint64_t seed = test_seed();
  return seed;
}

struct TestModel {
  ModelConfig config;
  HostWeights host;

  TestModel(const ModelConfig& c, uint64_t seed, const WeightForm& form = {})
      : config(c),
        host(host_weights(c, WeightsSpec{.checkpoint = false, .seed = seed, .outliers = false}, form)) {}

  ModelWeights weights() const { return host.weights(); }
  std::span<float> tensor(const std::string& name) { return host.tensor(name); }
};

/// Awkward on purpose: nothing is a power of two or a multiple of 8, and heads * head_dim is not d_model.
inline ModelConfig small_config() {
  ModelConfig c;
  c.name = "small";
  c.d_model = 20;
  c.head_dim = 6;
  c.encoder = {.layers = 2, .heads = 3, .d_ff = 37};
  c.decoder = {.layers = 3, .heads = 5, .d_ff = 29};
  c.vocab = 53;
  c.max_positions = 32;
  c.attention_scale = 0.4;
  return c;
}

/// Decoder inputs [batch, steps]: the decoder's start, then seeded ids.
inline std::vector<int32_t> test_tokens(const ModelConfig& c, int batch, int steps, uint64_t seed) {
  std::vector<int32_t> tokens(static_cast<size_t>(batch) * steps);
  const uint64_t key = stream_key(seed, "test tokens");
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = i % steps == 0 ? c.decoder_start_id : static_cast<int32_t>(uniform_below(key, i, c.vocab));
  }
  return tokens;
}

}  // namespace tandem::reference
