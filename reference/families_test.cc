// The reference against Hugging Face transformers: one committed fixture a family, made by
// scripts/peers/make_fixtures.py.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "harness/model/seeded.h"
#include "harness/run/compare.h"
#include "reference/model/decoder.h"
#include "reference/model/encoder.h"

namespace tandem::reference {
namespace {

// The differences are near 5e-7, transformers' own rounding; an eps of 1e-6 for 1e-5 makes 1.8e-6 at the
// least.
constexpr double kTolerance = 1.2e-6;

struct Fixture {
  ModelConfig config;
  WeightLayout layout;
  std::vector<float> arena;
  TransformerBatch source, target;
  std::vector<float> encoder_output;  // [source tokens, d_model]
  std::vector<float> logits;          // [target tokens, vocab]

  ModelWeights weights() const { return bind_weights(config, layout, arena.data(), DType::kF32); }
};

Fixture load(const std::string& family) {
  const std::string path = "reference/testdata/" + family + ".json";  // tests run in the repository's root
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path);
  const nlohmann::json j = nlohmann::json::parse(file);

  Fixture f;
  f.config = j.at("config").get<ModelConfig>();
  f.layout = weight_layout(f.config);
  f.arena.resize(f.layout.elements);
  std::set<std::string> filled;
  for (const nlohmann::json& t : j.at("tensors")) {
    // Scales are the fixture's own, so that it outlives a change of ours.
    TensorSpec spec = f.layout.at(t.at(0));
    EXPECT_EQ(spec.rows, t.at(1)) << spec.name;
    EXPECT_EQ(spec.cols, t.at(2)) << spec.name;
    spec.base = t.at(3);
    spec.exponent = t.at(4);
    const WeightsSpec seed{.checkpoint = false, .seed = j.at("seed"), .outliers = false};
    fill_seeded(seed, spec, 0, std::span<float>(f.arena).subspan(spec.offset, spec.size()));
    filled.insert(spec.name);
  }
  for (const TensorSpec& t : f.layout.tensors) EXPECT_TRUE(filled.contains(t.name)) << t.name;
  f.source = pack(f.config, j.at("source_ids"));
  f.target = pack(f.config, j.at("target_ids"));
  f.encoder_output = j.at("encoder_output").get<std::vector<float>>();
  f.logits = j.at("logits").get<std::vector<float>>();
  return f;
}

class Families : public testing::TestWithParam<std::string> {};

// Breaks when the reference computes anything else than the family's published model does.
TEST_P(Families, EncoderAndLogitsAreTransformers) {
  const Fixture f = load(GetParam());
  const ModelWeights w = f.weights();
  const Matrix encoded = encoder_forward(f.config, w.encoder, f.source);
  const Comparison encoder = compare(encoded.values, f.encoder_output, f.config.d_model);
  EXPECT_TRUE(encoder.within(kTolerance)) << encoder.relative_l2 << " " << encoder.where;

  const Matrix logits = decoder_full(f.config, w.decoder, f.source, encoded, f.target);
  const Comparison decoder = compare(logits.values, f.logits, f.config.vocab);
  EXPECT_TRUE(decoder.within(kTolerance)) << decoder.relative_l2 << " " << decoder.where;
}

// Breaks when decoding step by step from a cache leaves the published model.
TEST_P(Families, StepsWithACacheAreTransformers) {
  const Fixture f = load(GetParam());
  const ModelWeights w = f.weights();
  const Matrix encoded = encoder_forward(f.config, w.encoder, f.source);
  DecoderState state = start_decoder(f.config, w.decoder, f.source, encoded, f.target.max_length);
  for (int step = 0; step < f.target.max_length; ++step) {
    std::vector<int32_t> ids;  // a target that is over is fed its last id again and not looked at
    for (int b = 0; b < f.target.size(); ++b) {
      ids.push_back(f.target.ids[f.target.offsets[b] + std::min(step, f.target.lengths[b] - 1)]);
    }
    const Matrix logits = decoder_step(f.config, w.decoder, state, ids);
    for (int b = 0; b < f.target.size(); ++b) {
      if (step >= f.target.lengths[b]) continue;
      const std::span<const float> expected(&f.logits[(f.target.offsets[b] + step) * logits.cols],
                                            logits.cols);
      const Comparison c = compare({logits.row(b), expected.size()}, expected, logits.cols);
      EXPECT_TRUE(c.within(kTolerance)) << "sequence " << b << " step " << step << ": " << c.relative_l2;
    }
  }
}

/// The config with one field changed, and the field's name.
std::vector<std::pair<std::string, ModelConfig>> wrong_configs(const ModelConfig& right) {
  std::vector<std::pair<std::string, ModelConfig>> all;
  const auto add = [&](const std::string& field, auto change) {
    ModelConfig wrong = right;
    change(wrong);
    if (!(wrong == right)) all.emplace_back(field, wrong);
  };
  add("norm_eps", [](ModelConfig& c) { c.norm_eps *= c.norm_eps > 5e-6 ? 0.1 : 10; });
  add("attention_scale", [](ModelConfig& c) { c.attention_scale *= 1.001; });
  add("embedding_scale", [](ModelConfig& c) { c.embedding_scale *= 1.001; });
  add("head_scale", [](ModelConfig& c) { c.head_scale *= 1.001; });
  for (const Activation a :
       {Activation::kRelu, Activation::kGelu, Activation::kGeluTanh, Activation::kSilu}) {
    add("activation", [&](ModelConfig& c) { c.activation = a; });
  }
  if (right.position == Position::kRelative) {
    add("relative_max_distance", [](ModelConfig& c) { c.relative_max_distance += 10; });
  } else {
    add("position_offset", [](ModelConfig& c) { c.position_offset += 1; });
  }
  if (right.position == Position::kSinusoidalHalves) {
    add("sinusoid_spans_end", [](ModelConfig& c) { c.sinusoid_spans_end = !c.sinusoid_spans_end; });
    add("position", [](ModelConfig& c) { c.position = Position::kSinusoidal; });
  }
  return all;
}

// Breaks when a fixture is too tame to tell two conventions apart.
TEST_P(Families, EveryFieldShows) {
  const Fixture f = load(GetParam());
  const ModelWeights w = f.weights();
  for (const auto& [field, wrong] : wrong_configs(f.config)) {
    const Matrix logits =
        decoder_full(wrong, w.decoder, f.source, encoder_forward(wrong, w.encoder, f.source), f.target);
    const Comparison c = compare(logits.values, f.logits, f.config.vocab);
    EXPECT_FALSE(c.within(kTolerance)) << field << ": " << c.relative_l2;
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Families, testing::Values("t5", "t5_gated", "bart", "marian", "m2m100"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tandem::reference
