#include "reference/ops/embedding.h"

#include <gtest/gtest.h>

#include <cmath>

#include "harness/base/error.h"
#include "reference/ops/test_views.h"

namespace tandem::reference {
namespace {

const std::vector<float> kTable = {0, 0, 0, 0, /**/ 1, 2, 3, 4, /**/ -1, -1, -1, -1};  // [3, 4]

ModelConfig config_with(Position position, int offset = 0, double scale = 1) {
  ModelConfig c;
  c.d_model = 4;
  c.position = position;
  c.position_offset = offset;
  c.embedding_scale = scale;
  return c;
}

std::vector<float> embed_one(const ModelConfig& config, int32_t id, int32_t position,
                             const std::vector<float>& learned = {}) {
  const std::vector<int32_t> ids = {id}, positions = {position};
  const TensorView rows =
      learned.empty() ? TensorView{} : view(learned, static_cast<int64_t>(learned.size()) / 4);
  return embed(config, {.ids = ids, .positions = positions, .table = view(kTable, 3), .position_table = rows})
      .values;
}

void expect_near(const std::vector<float>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-6) << "channel " << i;
}

// Breaks when sines and cosines are laid out in the other way, or a frequency's exponent is off. 10000^(2/4)
// = 100.
TEST(Embedding, SinusoidsOfThePaper) {
  expect_near(embed_one(config_with(Position::kSinusoidal), 0, 3),
              {std::sin(3), std::cos(3), std::sin(0.03), std::cos(0.03)});
}

// Breaks when Marian's halves are read as interleaved.
TEST(Embedding, SinusoidsOfMarian) {
  expect_near(embed_one(config_with(Position::kSinusoidalHalves), 0, 3),
              {std::sin(3), std::sin(0.03), std::cos(3), std::cos(0.03)});
}

// Breaks when fairseq's table loses its offset, or gets Marian's frequencies: its last one is 1/10000
// whatever d is.
TEST(Embedding, SinusoidsOfFairseq) {
  ModelConfig config = config_with(Position::kSinusoidalHalves, 2);
  config.sinusoid_spans_end = true;
  expect_near(embed_one(config, 0, 3), {std::sin(5), std::sin(0.0005), std::cos(5), std::cos(0.0005)});
}

// Breaks when the embedding scale also multiplies the position, or is left out.
TEST(Embedding, ScaleIsOnTheTokenOnly) {
  expect_near(embed_one(config_with(Position::kSinusoidal, 0, 2), 1, 0), {2, 4 + 1, 6, 8 + 1});
  expect_near(embed_one(config_with(Position::kNone, 0, 2), 1, 7), {2, 4, 6, 8});
  expect_near(embed_one(config_with(Position::kRelative, 0, 1), 1, 7), {1, 2, 3, 4});
}

// Breaks when BART's two unused leading rows are used.
TEST(Embedding, LearnedPositionsHaveAnOffset) {
  const std::vector<float> learned = {9, 9, 9, 9, /**/ 9, 9, 9, 9, /**/ 1, 1, 1, 1, /**/ 2, 2, 2, 2};
  const ModelConfig config = config_with(Position::kLearned, 2);
  expect_near(embed_one(config, 1, 0, learned), {2, 3, 4, 5});
  expect_near(embed_one(config, 1, 1, learned), {3, 4, 5, 6});
  EXPECT_THROW(embed_one(config, 1, 2, learned), Error);
}

// Breaks when an id outside the vocabulary reads beyond the table.
TEST(Embedding, RefusesIdsOutsideTheVocabulary) {
  EXPECT_THROW(embed_one(config_with(Position::kNone), 3, 0), Error);
  EXPECT_THROW(embed_one(config_with(Position::kNone), -1, 0), Error);
}

// Breaks when ranks' rows do not add up to the whole table's: a position that each rank adds, a row of another rank.
TEST(Embedding, RanksAddUp) {
  ModelConfig config = config_with(Position::kSinusoidal, 0, 2);
  config.vocab = 3;
  const std::vector<int32_t> ids = {2, 0, 1}, positions = {0, 1, 2};
  const auto part = [&](int64_t first, int64_t rows) {
    const TensorView table{kTable.data() + first * 4, DType::kF32, rows, 4};
    return embed(config, {.ids = ids, .positions = positions, .table = table, .first_id = first});
  };
  const Matrix whole =
      embed(config, {.ids = ids, .positions = positions, .table = view(kTable, 3), .position_table = {}});
  EXPECT_EQ(add(part(0, 2), part(2, 1)).values, whole.values);
  config.vocab = 2;
  EXPECT_THROW(part(0, 2), Error) << "id 2 of a vocabulary of 2";
}

}  // namespace
}  // namespace tandem::reference
