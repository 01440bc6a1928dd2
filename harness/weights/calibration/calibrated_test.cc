#include "harness/weights/calibration/calibrated.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/random.h"
#include "harness/weights/materialise.h"
#include "harness/weights/packed.h"
#include "harness/weights/values/seeded.h"

namespace tandem {
namespace {

constexpr WeightsSpec kSeed{.seed = 4, .outliers = true};

ModelConfig model(NormPlacement placement, Activation activation, bool gated) {
  ModelConfig c;
  c.d_model = 40;
  c.head_dim = 8;
  c.encoder = {.layers = 1, .heads = 4, .d_ff = 48};
  c.decoder = {.layers = 2, .heads = 6, .d_ff = 64};
  c.vocab = 50;
  c.max_positions = 32;
  c.placement = placement;
  c.final_norm = placement == NormPlacement::kPre;
  c.activation = activation;
  c.gated = gated;
  return c;
}

std::vector<std::string> names(const WeightLayout& layout) {
  std::vector<std::string> all;
  for (const ScaledInput& input : scaled_inputs(layout)) all.push_back(input.name());
  return all;
}

/// Exponents that differ from channel to channel, for every input.
ChannelScales some_scales(const WeightSource& source, const WeightLayout& layout) {
  ChannelScales scales{.of = scales_key(source, layout)};
  for (const ScaledInput& input : scaled_inputs(layout)) {
    std::vector<int>& e = scales.exponents[input.name()];
    const uint64_t key = stream_key(1, input.name());
    for (int64_t k = 0; k < layout.at(input.name()).whole.cols; ++k)
      e.push_back(static_cast<int>(uniform_below(key, static_cast<uint64_t>(k), 7)) - 3);
  }
  return scales;
}

constexpr WeightForm kForm{.precision = Precision::kInt8, .calibration = Calibration::kSmoothQuant};

// An input too many changes the model; one too few leaves its outliers.
TEST(ScaledInputs, AreThoseWhoseMakerTakesTheFactor) {
  const std::vector<std::string> attention = {
      "encoder.layers.0.self.out.weight",  "decoder.layers.0.self.out.weight",
      "decoder.layers.0.cross.out.weight", "decoder.layers.1.self.out.weight",
      "decoder.layers.1.cross.out.weight", "head.weight"};
  EXPECT_EQ(names(weight_layout(model(NormPlacement::kPost, Activation::kGelu, false), kForm)), attention)
      << "gelu takes no factor, a post-norm is a residual too";
  const WeightLayout pre = weight_layout(model(NormPlacement::kPre, Activation::kGelu, true), kForm);
  EXPECT_EQ(names(pre).size(), 4u + 2 * 6 + 1);
  const ScaledInput up = scaled_inputs(pre)[2];
  EXPECT_EQ(up.readers,
            (std::vector<std::string>{"encoder.layers.0.ffn.gate.weight", "encoder.layers.0.ffn.up.weight"}));
  EXPECT_EQ(up.makers,
            (std::vector<std::string>{"encoder.layers.0.ffn_norm.gamma", "encoder.layers.0.ffn_norm.beta"}));
  EXPECT_EQ(scaled_inputs(pre).back().makers.front(), "decoder.final_norm.gamma");
  const WeightLayout post = weight_layout(model(NormPlacement::kPost, Activation::kRelu, false), kForm);
  EXPECT_EQ(scaled_inputs(post)[1].makers,
            (std::vector<std::string>{"encoder.layers.0.ffn.up.weight", "encoder.layers.0.ffn.up.bias"}));
  EXPECT_EQ(scaled_inputs(post).back().makers.front(), "decoder.layers.1.ffn_norm.gamma");
  WeightForm wide_head = kForm;
  wide_head.head = HeadStorage::k16Bit;
  EXPECT_NE(names(weight_layout(pre.config, wide_head)).back(), "head.weight")
      << "the embedding cannot be scaled for the head alone";
}

// A value of a maker and one of a reader that are scaled otherwise than the page says, or a tied table that is scaled for
// its head, is another model.
TEST(CalibratedSource, ScalesMakersAndReaders) {
  const WeightLayout layout = weight_layout(model(NormPlacement::kPre, Activation::kSilu, true), kForm);
  const SeededSource plain(kSeed);
  const ChannelScales scales = some_scales(plain, layout);
  const CalibratedSource source(std::make_unique<SeededSource>(kSeed), layout, scales);
  EXPECT_EQ(source.seeded(), nullptr) << "no device can make the values from the seed alone";
  const auto factor = [&](const std::string& input, int64_t channel, int sign) {
    return power_of_two(sign * scales.exponents.at(input)[static_cast<size_t>(channel)]);
  };
  for (const TensorSpec& t : layout.tensors) {
    const Rectangle at{t.whole.rows > 1 ? 1 : 0, t.whole.rows > 1 ? 2 : 1, 3, 9};
    std::vector<float> got(static_cast<size_t>(at.size())), want(got.size());
    source.read(t.whole, at, got);
    plain.read(t.whole, at, want);
    for (int64_t i = 0; i < at.size(); ++i) {
      const int64_t row = at.first_row + i / at.cols, col = at.first_col + i % at.cols;
      for (const ScaledInput& input : scaled_inputs(layout)) {
        for (const std::string& name : input.readers)
          if (name == t.name) want[static_cast<size_t>(i)] *= factor(input.name(), col, 1);
        for (const std::string& name : input.makers) {
          if (name == t.name)
            want[static_cast<size_t>(i)] *= factor(input.name(), t.name.ends_with(".weight") ? row : col, -1);
        }
      }
    }
    EXPECT_EQ(got, want) << t.name;
  }
}

// Ranks of a group must hold one model: a slice has the codes and scales that the whole has.
TEST(CalibratedSource, SlicesHaveTheWholesValues) {
  const ModelConfig config = model(NormPlacement::kPre, Activation::kRelu, false);
  const WeightLayout whole = weight_layout(config, kForm);
  const ChannelScales scales = some_scales(SeededSource(kSeed), whole);
  const CalibratedSource source(std::make_unique<SeededSource>(kSeed), whole, scales);
  for (int rank = 0; rank < 2; ++rank) {
    WeightForm form = kForm;
    form.slice = {.degree = 2, .rank = rank};
    const WeightLayout part = weight_layout(config, form);
    const CalibratedSource own(std::make_unique<SeededSource>(kSeed), part, scales);
    EXPECT_EQ(own.key(), source.key());
    for (const char* name : {"decoder.layers.1.self.v.weight", "decoder.layers.1.self.out.weight",
                             "encoder.layers.0.ffn.up.weight", "head.weight"}) {
      const TensorSpec& t = part.at(name);
      const TensorSpec& of_whole = whole.at(name);
      std::vector<float> got(static_cast<size_t>(t.size())), want(static_cast<size_t>(of_whole.size()));
      read_rounded(own, part, t, {0, t.rows, 0, t.cols}, got);
      read_rounded(source, whole, of_whole, {0, of_whole.rows, 0, of_whole.cols}, want);
      const int64_t first_row = t.row_runs.front().first, first_col = t.col_runs.front().first;
      for (int64_t r = 0; r < t.rows; ++r) {
        for (int64_t c = 0; c < t.cols; ++c) {
          ASSERT_EQ(got[static_cast<size_t>(r * t.cols + c)],
                    want[static_cast<size_t>((first_row + r) * of_whole.cols + first_col + c)])
              << name << " " << r << " " << c;
        }
      }
    }
  }
}

// Weights of a calibrated form must never be the bare ones, nor keep their place in a cache.
TEST(CalibratedSource, IsWhatACalibratedFormAsksFor) {
  const ModelConfig config = model(NormPlacement::kPre, Activation::kRelu, false);
  EXPECT_THROW(host_weights(config, kSeed, kForm), Error);
  const WeightLayout layout = weight_layout(config, kForm);
  const auto calibrated = [&](const ChannelScales& scales) {
    return std::make_unique<CalibratedSource>(std::make_unique<SeededSource>(kSeed), layout, scales);
  };
  ChannelScales scales = some_scales(SeededSource(kSeed), layout);
  const auto source = calibrated(scales);
  EXPECT_NO_THROW(host_weights(config, *source, kForm));
  EXPECT_THROW(host_weights(config, *source, {.precision = Precision::kInt8}), Error);
  scales.exponents.begin()->second[0] += 1;
  EXPECT_NE(calibrated(scales)->key(), source->key());
  scales.of = scales_key(SeededSource({.seed = 9}), layout);
  EXPECT_THROW(calibrated(scales), Error);
}

}  // namespace
}  // namespace tandem
