#include "harness/model/batch.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "harness/base/error.h"
#include "harness/base/random.h"
#include "harness/base/testing/test_seed.h"
#include "harness/model/ids_file.h"

namespace tandem {
namespace {

LengthsSpec ragged(double ratio) {
  return {.kind = LengthsSpec::Kind::kRagged, .ratio = ratio, .path = {}};
}

// Without it a user's sources would be read wrong, or a bad line would be dropped without a word.
TEST(Ids, LinesOfAFile) {
  const auto path = std::filesystem::temp_directory_path() / ("tandem-ids-" + std::to_string(::getpid()));
  const auto write = [&](const char* text) { std::ofstream(path) << text; };
  const auto complaint = [&](int32_t vocab) -> std::string {
    try {
      read_ids(path.string(), vocab);
    } catch (const UsageError& e) {
      return e.what();
    }
    return "";
  };
  write("3 1 4\n1,5\t9\r\n2");
  EXPECT_EQ(read_ids(path.string()), (std::vector<std::vector<int32_t>>{{3, 1, 4}, {1, 5, 9}, {2}}));
  EXPECT_NE(complaint(9).find(":2: '9' is not an id between 0 and 8"), std::string::npos);
  const ModelConfig config = preset("tiny");
  const LengthsSpec spec = parse_lengths("ids:" + path.string());
  EXPECT_EQ(source_batch(config, spec, 2, 3, 1).ids, (std::vector<int32_t>{3, 1, 4, 1, 5, 9}));
  EXPECT_EQ(source_lengths(spec, 3, 5, 1), (std::vector<int32_t>{3, 3, 1}));
  EXPECT_THROW(source_lengths(spec, 3, 2, 1), ImpossibleCase);
  EXPECT_THROW(source_lengths(spec, 4, 5, 1), ImpossibleCase);
  for (const char* text : {"1\n\n2", "1 2x", "-1", "99999999999", "1.5", ""}) {
    write(text);
    EXPECT_NE(complaint(100).find(path.string()), std::string::npos) << text;
  }
  write("1\n \n");
  EXPECT_NE(complaint(100).find(":2: no id in it"), std::string::npos);
  std::filesystem::remove(path);
  EXPECT_NE(complaint(100).find("cannot read"), std::string::npos);
}

// A length axis would be read as another one.
TEST(Lengths, ParsesTheAxis) {
  EXPECT_EQ(parse_lengths("full"), LengthsSpec{});
  EXPECT_EQ(parse_lengths("ragged:0.5"), ragged(0.5));
  EXPECT_EQ(parse_lengths("file:a/b").path, "a/b");
  for (const char* text : {"full", "ragged:0.25", "ragged:1", "file:x"})
    EXPECT_EQ(lengths_text(parse_lengths(text)), text);
  for (const char* text : {"", "Full", "ragged", "ragged:", "ragged:0", "ragged:1.5", "ragged:-1",
                           "ragged:nan", "ragged:0.5x", "file:"}) {
    EXPECT_THROW(parse_lengths(text), UsageError) << text;
  }
}

// A ragged case would do more or less work than its name says.
TEST(Lengths, RaggedHasTheMaximumAndTheMean) {
  const uint64_t seed = test_seed();
  for (int batch : {2, 3, 8, 64, 256}) {
    for (int src : {1, 7, 128, 512}) {
      for (double ratio : {0.1, 0.5, 0.75, 0.99, 1.0}) {
        const auto total = std::llround(ratio * src * batch);
        if (total < src + batch - 1) {
          EXPECT_THROW(source_lengths(ragged(ratio), batch, src, seed), ImpossibleCase);
          continue;
        }
        const auto lengths = source_lengths(ragged(ratio), batch, src, seed);
        ASSERT_EQ(lengths.size(), static_cast<size_t>(batch));
        EXPECT_EQ(*std::max_element(lengths.begin(), lengths.end()), src);
        EXPECT_GE(*std::min_element(lengths.begin(), lengths.end()), 1);
        EXPECT_EQ(std::accumulate(lengths.begin(), lengths.end(), int64_t{0}), total)
            << batch << " " << src << " " << ratio;
        EXPECT_EQ(lengths, source_lengths(ragged(ratio), batch, src, seed));
      }
    }
  }
  const auto spread = source_lengths(ragged(0.5), 64, 512, seed);
  EXPECT_GT(std::set<int32_t>(spread.begin(), spread.end()).size(), 20u);
  EXPECT_NE(spread, source_lengths(ragged(0.5), 64, 512, seed + 1));
}

TEST(Lengths, FullAndBadSizes) {
  EXPECT_EQ(source_lengths({}, 3, 7, 0), (std::vector<int32_t>{7, 7, 7}));
  EXPECT_THROW(source_lengths({}, 0, 7, 0), UsageError);
  EXPECT_THROW(source_lengths({}, 1, 0, 0), UsageError);
}

// A file of lengths would be cut, padded or misread without a word.
TEST(Lengths, File) {
  const std::string path = ::testing::TempDir() + "tandem_lengths_" + std::to_string(getpid());
  const LengthsSpec spec = parse_lengths("file:" + path);
  std::ofstream(path) << "3\r\n1\n\n8\n";
  EXPECT_EQ(source_lengths(spec, 3, 8, 0), (std::vector<int32_t>{3, 1, 8}));
  EXPECT_THROW(source_lengths(spec, 4, 8, 0), ImpossibleCase);
  EXPECT_THROW(source_lengths(spec, 3, 7, 0), ImpossibleCase);
  std::ofstream(path) << "3\nfour\n";
  try {
    source_lengths(spec, 2, 8, 0);
    FAIL() << "'four' was read as a length";
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find(path + ":2: 'four'"), std::string::npos) << e.what();
  }
  std::filesystem::remove(path);
  EXPECT_THROW(source_lengths(spec, 2, 8, 0), UsageError);
}

// Sequences would run into each other, or inputs would hold ids with a meaning of their own.
TEST(Batch, PacksOrdinaryIds) {
  const uint64_t seed = test_seed();
  for (const char* name : {"tiny", "marian-base", "bart-base"}) {
    ModelConfig c = preset(name);
    if (c.name == "marian-base") c.vocab = 58101;
    const std::vector<int32_t> lengths = {5, 1, 300};
    const TransformerBatch batch = make_batch(c, lengths, seed);
    EXPECT_EQ(batch.offsets, (std::vector<int32_t>{0, 5, 6, 306}));
    EXPECT_EQ(batch.tokens(), 306);
    EXPECT_EQ(batch.size(), 3);
    EXPECT_EQ(batch.longest, 300);
    ASSERT_EQ(batch.ids.size(), 306u);
    for (int32_t id : batch.ids) {
      ASSERT_GE(id, 0);
      ASSERT_LT(id, c.vocab);
      ASSERT_TRUE(id != c.pad_id && id != c.eos_id && id != c.decoder_start_id) << id;
    }
    EXPECT_GT(std::set<int32_t>(batch.ids.begin(), batch.ids.end()).size(), 100u);
    // A smaller batch is the head of a larger one: a witness sees the same ids.
    const TransformerBatch head = make_batch(c, {5, 1}, seed);
    EXPECT_TRUE(std::equal(head.ids.begin(), head.ids.end(), batch.ids.begin()));
  }
  ModelConfig c = preset("tiny");
  EXPECT_THROW(make_batch(c, {3, 0}, 0), UsageError);
  c.vocab = 2;
  EXPECT_THROW(make_batch(c, {3}, 0), UsageError);
}

// All ids that are not special must be reachable.
TEST(Batch, CoversTheVocabulary) {
  ModelConfig c = preset("tiny");
  c.vocab = 9;
  c.pad_id = 3;
  c.eos_id = 8;
  c.decoder_start_id = 0;
  const TransformerBatch batch = make_batch(c, {500}, 1);
  EXPECT_EQ(std::set<int32_t>(batch.ids.begin(), batch.ids.end()), (std::set<int32_t>{1, 2, 4, 5, 6, 7}));
}

TEST(Batch, PackChecksIds) {
  const ModelConfig c = preset("tiny");
  const TransformerBatch batch = pack(c, {{1, 2, 3}, {255}});
  EXPECT_EQ(batch.ids, (std::vector<int32_t>{1, 2, 3, 255}));
  EXPECT_EQ(batch.lengths, (std::vector<int32_t>{3, 1}));
  EXPECT_THROW(pack(c, {{1}, {}}), UsageError);
  EXPECT_THROW(pack(c, {{256}}), UsageError);
  EXPECT_THROW(pack(c, {{-1}}), UsageError);
}

// A query would see padding, or the future.
TEST(AttentionMask, Sees) {
  const std::vector<int32_t> lengths = {3, 1};
  const AttentionMask padding{.kind = AttentionMask::Kind::kPadding, .lengths = lengths.data()};
  const AttentionMask causal{.kind = AttentionMask::Kind::kCausal, .lengths = lengths.data()};
  EXPECT_TRUE(padding.sees(0, 0, 2));
  EXPECT_FALSE(padding.sees(1, 0, 1));
  EXPECT_TRUE(causal.sees(0, 1, 1));
  EXPECT_FALSE(causal.sees(0, 1, 2));
}

// T5's scores would get another position's bias. The table was made with the published formula in fp32 arithmetic
// (transformers' T5Attention._relative_position_bucket).
TEST(RelativeBucket, CommittedTable) {
  std::ifstream file("harness/model/testdata/relative_bucket.json");
  const nlohmann::json table = nlohmann::json::parse(file);
  const int first = table.at("first");
  const int last = table.at("last");
  for (int r = first; r <= last; ++r) {
    EXPECT_EQ(relative_bucket(r, true, 32, 128), table.at("bidirectional").at(r - first)) << r;
    EXPECT_EQ(relative_bucket(r, false, 32, 128), table.at("causal").at(r - first)) << r;
  }
  EXPECT_EQ(relative_bucket(100000, true, 32, 128), 31);
  EXPECT_EQ(relative_bucket(-100000, true, 32, 128), 15);
  EXPECT_EQ(relative_bucket(-100000, false, 32, 128), 31);
}

}  // namespace
}  // namespace tandem
