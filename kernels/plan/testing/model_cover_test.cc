#include "kernels/plan/testing/model_cover.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "harness/base/testing/test_seed.h"
#include "harness/weights/values/seed_scale.h"

namespace tandem::kernels {
namespace {

// Attention over embeddings ten times larger is an arg-max, and where two keys score alike, roundings choose: the engine is
// right, its row is another one, and a test that holds it against the reference fails on some days.
TEST(ModelCover, EmbeddingsAreOfTheSizeThatFamiliesHave) {
  double largest_of_presets = 0;
  const auto embeddings = [](const ModelConfig& m) {
    return seed_deviation(SeedScale(m).embedding()) * m.embedding_scale;
  };
  for (const std::string& name : preset_names())
    largest_of_presets = std::max(largest_of_presets, embeddings(preset(name)));
  for (const CoverCase& c : covering_cases(test_seed(), {Precision::kBf16, Precision::kInt8}))
    EXPECT_LE(embeddings(c.config), 1.5 * largest_of_presets) << c.text;
}

}  // namespace
}  // namespace tandem::kernels
