// The reference against Hugging Face transformers: one committed fixture a family, made by
// scripts/peers/fixtures/make_families.py.
#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "harness/engine/compare.h"
#include "reference/model/decoder.h"
#include "reference/model/encoder.h"
#include "reference/testing/family_fixture.h"

namespace tandem::reference {
namespace {

// The differences are near 5e-7, transformers' own rounding; an eps of 1e-6 for 1e-5 makes 1.8e-6 at the
// least.
constexpr double kTolerance = 1.4e-6;

class Families : public testing::TestWithParam<std::string> {};

// Breaks when the reference computes anything else than the family's published model does.
TEST_P(Families, EncoderAndLogitsAreTransformers) {
  const FamilyFixture f = load_family(GetParam());
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
  const FamilyFixture f = load_family(GetParam());
  const ModelWeights w = f.weights();
  const Matrix encoded = encoder_forward(f.config, w.encoder, f.source);
  DecoderState state = start_decoder(f.config, w.decoder, f.source, encoded, f.target.longest);
  for (int step = 0; step < f.target.longest; ++step) {
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
  const FamilyFixture f = load_family(GetParam());
  const ModelWeights w = f.weights();
  for (const auto& [field, wrong] : wrong_configs(f.config)) {
    const Matrix logits =
        decoder_full(wrong, w.decoder, f.source, encoder_forward(wrong, w.encoder, f.source), f.target);
    const Comparison c = compare(logits.values, f.logits, f.config.vocab);
    EXPECT_FALSE(c.within(kTolerance)) << field << ": " << c.relative_l2;
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Families, testing::ValuesIn(kFamilies),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tandem::reference
