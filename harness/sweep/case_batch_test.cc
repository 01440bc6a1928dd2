#include "harness/sweep/case_batch.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "harness/base/error.h"

namespace tandem {
namespace {

Case ragged_case() {
  Case c;
  c.model = "tiny";
  c.batch = 5;
  c.src = 24;
  c.lengths = "ragged:0.5";
  return c;
}

// Breaks when a case's input is not what the axes and the recorded seed make: an engine, the validation and the cost of
// one case would speak of different inputs. Lengths and ids are those of seed 1, which records name.
TEST(CaseBatch, IsMadeOfTheAxesAndTheRecordedSeed) {
  const Case c = ragged_case();
  const ModelConfig config = load_model(c.model);
  const auto lengths = case_lengths(c);
  EXPECT_EQ(lengths, source_lengths(parse_lengths("ragged:0.5"), 5, 24, 1));
  const TransformerBatch batch = case_batch(c, config);
  EXPECT_EQ(batch.lengths, lengths);
  EXPECT_EQ(batch.ids, make_batch(config, lengths, 1).ids);
}

// Breaks when the sequences of a file of ids are replaced by those of a seed, or ids outside the vocabulary pass.
TEST(CaseBatch, TakesTheIdsOfAFile) {
  const auto path =
      std::filesystem::temp_directory_path() / ("case_batch_test." + std::to_string(::getpid()));
  std::ofstream(path) << "7 8 9\n5\n";
  Case c = ragged_case();
  c.batch = 2;
  c.src = 3;
  c.lengths = "ids:" + path.string();
  ModelConfig config = load_model(c.model);
  EXPECT_EQ(case_lengths(c), (std::vector<int32_t>{3, 1}));
  EXPECT_EQ(case_batch(c, config).ids, (std::vector<int32_t>{7, 8, 9, 5}));
  config.vocab = 9;
  EXPECT_THROW(case_batch(c, config), Error);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace tandem
