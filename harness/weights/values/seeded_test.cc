#include "harness/weights/values/seeded.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/testing/test_seed.h"
#include "harness/weights/values/seed_scale.h"

namespace tandem {
namespace {

// The same bits on CPU, GPU and in Python: a change here would change every committed number silently. The values were
// made by an independent program (Python integers).
TEST(Seeded, CommittedValues) {
  std::ifstream file("harness/weights/testdata/seeded.json");
  const nlohmann::json rows = nlohmann::json::parse(file);
  ASSERT_EQ(rows.size(), 64u);
  for (const auto& row : rows) {
    const int64_t index = row.at("index");
    const WholeTensor tensor{.name = row.at("name"),
                             .rows = index + 1,
                             .cols = row.at("cols"),
                             .base = row.at("base"),
                             .exponent = row.at("exponent"),
                             .outlier_rows = true};
    const WeightsSpec spec{.seed = row.at("seed"), .outliers = row.at("outliers")};
    float value = 0;
    fill_seeded(spec, tensor, index, {&value, 1});
    const auto want = static_cast<uint32_t>(std::stoul(row.at("bits").get<std::string>(), nullptr, 16));
    EXPECT_EQ(std::bit_cast<uint32_t>(value), want) << row.dump();
  }
}

// A rank's slice, or a block filled by another thread, would differ from the whole.
TEST(Seeded, AnyPieceIsAPartOfTheWhole) {
  const uint64_t seed = test_seed();
  const WholeTensor tensor{.name = "t", .rows = 700, .cols = 301, .exponent = -18, .outlier_rows = true};
  for (bool outliers : {false, true}) {
    const WeightsSpec spec{.seed = seed, .outliers = outliers};
    std::vector<float> whole(tensor.size());
    fill_seeded(spec, tensor, 0, whole);
    for (int i = 0; i < 50; ++i) {
      const uint64_t key = stream_key(seed, "pieces");
      const int64_t first = uniform_below(key, 2 * i, static_cast<uint32_t>(tensor.size()));
      const int64_t count = 1 + uniform_below(key, 2 * i + 1, static_cast<uint32_t>(tensor.size() - first));
      std::vector<float> piece(count);
      fill_seeded(spec, tensor, first, piece);
      ASSERT_TRUE(std::equal(piece.begin(), piece.end(), whole.begin() + first)) << first << " + " << count;
    }
  }
}

// Quantisation would be flattered: rows would all be alike, or the whole tensor larger than without outliers.
TEST(Seeded, OutliersSpreadRowsAndKeepTheWhole) {
  const WholeTensor tensor{.name = "spread", .rows = 4096, .cols = 64, .exponent = -16, .outlier_rows = true};
  std::vector<float> plain(tensor.size());
  std::vector<float> outliers(tensor.size());
  fill_seeded({.seed = 3}, tensor, 0, plain);
  fill_seeded({.seed = 3, .outliers = true}, tensor, 0, outliers);
  const auto rms = [](std::span<const float> v) {
    double sum = 0;
    for (float x : v) sum += static_cast<double>(x) * x;
    return std::sqrt(sum / v.size());
  };
  EXPECT_NEAR(rms(outliers) / rms(plain), 1, 0.05);
  double least = 1e9;
  double most = 0;
  for (int64_t r = 0; r < tensor.rows; ++r) {
    const double row = rms(std::span<const float>(outliers).subspan(r * tensor.cols, tensor.cols));
    least = std::min(least, row);
    most = std::max(most, row);
  }
  EXPECT_GT(most / least, 6);
}

// centred_sum * scale must stay an integer of 32 bits.
TEST(Seeded, OutlierTable) {
  double squares = 0;
  for (int i = 0; i < kOutlierSlots; ++i) {
    if (i > 0) {
      EXPECT_GT(kOutlierScale[i], kOutlierScale[i - 1]);
    }
    EXPECT_LT(int64_t{kOutlierScale[i]} * 131070, int64_t{1} << 31);
    squares += static_cast<double>(kOutlierScale[i]) * kOutlierScale[i];
  }
  EXPECT_NEAR(std::sqrt(squares / kOutlierSlots), 1 << kOutlierShift, 0.5);
}

// An axis value would be accepted and mean something else.
TEST(Seeded, ParsesTheAxis) {
  EXPECT_EQ(parse_weights("seed:0"), (WeightsSpec{}));
  EXPECT_EQ(parse_weights("seed:18446744073709551615,outliers"),
            (WeightsSpec{.seed = ~0ull, .outliers = true}));
  EXPECT_TRUE(parse_weights("checkpoint").checkpoint);
  for (const char* text : {"seed:0", "seed:7,outliers", "checkpoint"})
    EXPECT_EQ(weights_text(parse_weights(text)), text);
  for (const char* text : {"", "seed", "seed:", "seed:-1", "seed:1x", "seed:1,", "seed:,outliers",
                           "checkpoints", "seed:18446744073709551616"}) {
    EXPECT_THROW(parse_weights(text), UsageError) << text;
  }
  float value = 0;
  EXPECT_THROW(fill_seeded({.checkpoint = true}, {.name = "t", .cols = 1}, 0, {&value, 1}), UsageError);
}

// An exponent off by one doubles every activation of a tensor's consumers.
TEST(SeedScale, NearestPowerOfTwo) {
  for (double deviation : {0.01, 0.0442, 0.1, 1.0, 3.0, 17.0}) {
    const double ratio = seed_deviation(deviation) / deviation;
    EXPECT_LE(ratio, 1.4143) << deviation;
    EXPECT_GE(ratio, 0.7071) << deviation;
  }
}

// The final stream would be the input token's embedding (arg-max repeats its input), or pre-norm streams would overflow
// 16-bit floats in deep models.
TEST(SeedScale, StreamsGrowByTheSameFactorAtAnyDepth) {
  for (const std::string& name : preset_names()) {
    const ModelConfig c = preset(name);
    const WeightLayout layout = weight_layout(c);
    const auto deviation = [&](const std::string& tensor) {
      return kCentredSumStd * std::ldexp(1.0, layout.at(tensor).whole.exponent);
    };
    const std::string table = c.shared_embeddings ? "shared.embedding" : "decoder.embedding";
    const double token = deviation(table) * c.embedding_scale;
    EXPECT_GT(token, 0.02) << name;
    EXPECT_LT(token, 10) << name;
    // What the last layer adds, at most: unit hidden states through every column of the down projection.
    const std::string down = "decoder.layers." + std::to_string(c.decoder.layers - 1) + ".ffn.down.weight";
    EXPECT_LT(deviation(down) * std::sqrt(c.decoder.d_ff) * 1.4, 400) << name;
    // Logits of a unit state.
    const double head = deviation(c.tied_head ? table : "head.weight") * c.head_scale * std::sqrt(c.d_model);
    EXPECT_GT(head, 2) << name;
    EXPECT_LT(head, 4.5) << name;
    // Scores: q.k * attention_scale for unit inputs.
    const double q = deviation("decoder.layers.0.self.q.weight") * std::sqrt(c.d_model);
    const double k = deviation("decoder.layers.0.self.k.weight") * std::sqrt(c.d_model);
    const double score = q * k * std::sqrt(c.head_dim) * c.attention_scale;
    EXPECT_GT(score, 0.7) << name;
    EXPECT_LT(score, 1.42) << name;
  }
}

}  // namespace
}  // namespace tandem
