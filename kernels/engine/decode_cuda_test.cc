// Whole decodings on the card, by every strategy: transformers' tokens, and the same ones alone and in a batch.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "harness/weights/testing/checkpoint_writer.h"
#include "harness/weights/values/checkpoint.h"
#include "kernels/engine/engine_test_util.h"
#include "reference/engine/reference_engine.h"

namespace tandem::kernels {
namespace {

using nlohmann::json;
namespace testing_files = tandem::testing;

class DecodeOnTheCard : public ::testing::TestWithParam<std::string> {
 protected:
  DecodeOnTheCard() : fixture_(testing_files::checkpoint_fixture(GetParam())) {
    testing_files::write_checkpoint(folder_.path() / "m", fixture_);
    sources_ = testing_files::fixture_sources(GetParam(), fixture_);
    for (const int i : fixture_["undecided"]) undecided_.insert(i);
    const Checkpoint checkpoint(model());
    config_ = checkpoint.config();
    generation_ = checkpoint.generation();
    generation_.max_length = fixture_["new_tokens"].get<int>() + 1;
  }
  std::string model() const { return (folder_.path() / "m").string(); }
  /// The loaded group; what a case decodes is asked of the engine directly.
  Case group() const {
    Case c;
    c.suite = Suite::kGenerate;
    c.model = model();
    c.weights = "checkpoint";
    c.precision = Precision::kFp32;
    c.stop = "eos";
    return c;
  }

  testing_files::TestFolder folder_;
  json fixture_;
  std::vector<std::vector<int32_t>> sources_;
  std::set<int> undecided_;
  ModelConfig config_;
  GenerationConfig generation_;
};

// Breaks when any token, or any score of a beam, is not transformers', in ragged batches of 1 to 16.
TEST_P(DecodeOnTheCard, TokensAreTransformers) {
  TANDEM_NEED_DEVICE();
  CudaEngine engine({.search_choices = false});
  engine.load(group(), config_, {.precision = Precision::kFp32});
  for (const int beams : {1, fixture_["beams"].get<int>()}) {
    GenerationConfig g = generation_;
    g.beams = beams;
    size_t size = 1, wrong = 0, checked = 0;
    for (size_t first = 0; first < sources_.size(); first += size, size = size % 16 + 1) {
      const size_t last = std::min(first + size, sources_.size());
      const std::vector<std::vector<int32_t>> some(sources_.begin() + static_cast<ptrdiff_t>(first),
                                                   sources_.begin() + static_cast<ptrdiff_t>(last));
      const auto found = engine.decode(pack(config_, some), g);
      for (size_t i = first; i < last; ++i) {
        if (undecided_.contains(static_cast<int>(i))) continue;
        const Sequence& best = found[i - first].front();
        const json& want = beams == 1 ? fixture_["greedy"][i] : fixture_["beam"][i][1];
        ++checked;
        if (best.tokens != want.get<std::vector<int32_t>>()) {
          ADD_FAILURE() << beams << " beams, sequence " << i << " in a batch of " << last - first;
          ++wrong;
        } else if (beams > 1) {
          const double score = fixture_["beam"][i][0];
          EXPECT_NEAR(best.score, score, 5e-5 * std::max(1.0, std::abs(score))) << "sequence " << i;
        }
      }
    }
    fmt::print("{}, {} beams: {} of {} sequences differ\n", GetParam(), beams, wrong, checked);
  }
}

// Breaks when a sample depends on what else is in the batch, on its place, or on anything but its seed.
TEST_P(DecodeOnTheCard, SamplesDependOnTheirSeedAlone) {
  TANDEM_NEED_DEVICE();
  CudaEngine engine({.search_choices = false});
  engine.load(group(), config_, {.precision = Precision::kFp32});
  reference::ReferenceEngine reference;
  reference.load(group(), config_, {.precision = Precision::kFp32});
  const std::vector<std::vector<int32_t>> some(sources_.begin() + 1, sources_.begin() + 17);
  GenerationConfig g = generation_;
  g.max_length = 12;
  g.sample = true;
  g.n_best = 2;
  g.top_k = 30;
  g.top_p = 0.95;
  std::vector<uint64_t> seeds(some.size());
  for (size_t i = 0; i < seeds.size(); ++i) seeds[i] = 7 * i;
  const auto together = engine.decode(pack(config_, some), g, seeds);
  const auto want = reference.decode(pack(config_, some), g, seeds);
  int different = 0;
  for (size_t i = 0; i < some.size(); ++i) {
    const auto alone = engine.decode(pack(config_, {some[i]}), g, std::span(&seeds[i], 1));
    for (size_t sample = 0; sample < 2; ++sample) {
      EXPECT_EQ(alone[0][sample].tokens, together[i][sample].tokens) << i << ", " << sample;
      different += together[i][sample].tokens == want[i][sample].tokens ? 0 : 1;
    }
  }
  fmt::print("{}: {} of {} samples are not the reference's\n", GetParam(), different, 2 * some.size());
  EXPECT_LE(different, 1) << "a draw at the very border of two tokens may differ, not several";
}

INSTANTIATE_TEST_SUITE_P(All, DecodeOnTheCard, ::testing::ValuesIn(testing_files::checkpoint_variants()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tandem::kernels
