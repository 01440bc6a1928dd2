// A family's committed fixture: a small model, its input and what Hugging Face transformers computes for it
// (scripts/peers/fixtures/make_families.py).
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "harness/model/batch.h"
#include "harness/model/config.h"
#include "harness/weights/materialise.h"
#include "harness/weights/values/seeded.h"

namespace tandem::reference {

/// Every committed family.
inline const std::vector<std::string> kFamilies = {"t5", "t5_gated", "bart", "marian", "m2m100"};

struct FamilyFixture {
  ModelConfig config;
  HostWeights host;
  TransformerBatch source, target;
  std::vector<float> encoder_output;  // [source tokens, d_model]
  std::vector<float> logits;          // [target tokens, vocab]

  ModelWeights weights() const { return host.weights(); }
};

/// Tests run in the repository's root.
inline FamilyFixture load_family(const std::string& family) {
  const std::string path = "reference/testdata/" + family + ".json";
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path);
  const nlohmann::json j = nlohmann::json::parse(file);

  FamilyFixture f;
  f.config = j.at("config").get<ModelConfig>();
  f.host = empty_host_weights(f.config);
  std::set<std::string> filled;
  for (const nlohmann::json& t : j.at("tensors")) {
    // Scales are the fixture's own, so that it outlives a change of ours.
    WholeTensor spec = f.host.layout.at(t.at(0)).whole;
    EXPECT_EQ(spec.rows, t.at(1)) << spec.name;
    EXPECT_EQ(spec.cols, t.at(2)) << spec.name;
    spec.base = t.at(3);
    spec.exponent = t.at(4);
    const WeightsSpec seed{.checkpoint = false, .seed = j.at("seed"), .outliers = false};
    fill_seeded(seed, spec, 0, f.host.tensor(spec.name));
    filled.insert(spec.name);
  }
  for (const TensorSpec& t : f.host.layout.tensors) EXPECT_TRUE(filled.contains(t.name)) << t.name;
  f.source = pack(f.config, j.at("source_ids"));
  f.target = pack(f.config, j.at("target_ids"));
  f.encoder_output = j.at("encoder_output").get<std::vector<float>>();
  f.logits = j.at("logits").get<std::vector<float>>();
  return f;
}

}  // namespace tandem::reference
