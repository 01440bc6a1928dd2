#include "harness/model/generation.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "harness/base/error.h"

namespace tandem {
namespace {

using nlohmann::json;

const json kIds = {{"pad_token_id", 1}, {"eos_token_id", 2}, {"decoder_start_token_id", 2}};

json with(const char* key, const json& value) {
  json j = kIds;
  j[key] = value;
  return j;
}

// Breaks when a field of generation_config.json is read as another, or not at all.
TEST(Generation, ReadsEveryField) {
  const json j = json::parse(R"({"pad_token_id": 1, "eos_token_id": [2, 5], "decoder_start_token_id": 3,
    "max_length": 142, "min_length": 56, "forced_bos_token_id": 0, "forced_eos_token_id": 2, "num_beams": 4,
    "length_penalty": 2.0, "early_stopping": true, "num_return_sequences": 3, "repetition_penalty": 1.5,
    "no_repeat_ngram_size": 3, "bad_words_ids": [[1], [7, 8]], "suppress_tokens": [9],
    "begin_suppress_tokens": [10], "renormalize_logits": true, "temperature": 0.5, "top_k": 7, "top_p": 0.9,
    "transformers_version": "4.0", "num_beam_groups": 1})");
  const GenerationConfig g = read_generation(j, json::object(), 20, false);
  GenerationConfig want;
  want.decoder_start_id = 3;
  want.pad_id = 1;
  want.eos_ids = {2, 5};
  want.max_length = 142;
  want.min_length = 56;
  want.forced_bos_id = 0;
  want.forced_eos_ids = {2};
  want.beams = 4;
  want.length_penalty = 2;
  want.early_stopping = EarlyStopping::kTrue;
  want.n_best = 3;
  want.repetition_penalty = 1.5;
  want.no_repeat_ngram = 3;
  want.bad_words = {{1}, {7, 8}};
  want.suppressed = {9};
  want.suppressed_at_start = {10};
  want.renormalise = true;
  want.temperature = 0.5;
  want.top_k = 7;
  want.top_p = 0.9;
  EXPECT_EQ(g, want);
}

// Breaks when the rules of precedence between the two files and between old and new fields are others than
// transformers'.
TEST(Generation, WhichFileAndWhichFieldCounts) {
  const json config = with("num_beams", 6);
  EXPECT_EQ(read_generation(json(), config, 9, false).beams, 6);
  EXPECT_EQ(read_generation(kIds, config, 9, false).beams, 1);
  EXPECT_EQ(read_generation(json::object(), config, 9, false).eos_ids, std::vector<int32_t>{2});
  EXPECT_EQ(read_generation(with("max_new_tokens", 5), {}, 9, false).max_length, 6);
  EXPECT_EQ(read_generation(with("min_new_tokens", 5), {}, 9, false).min_length, 6);
  EXPECT_EQ(read_generation(with("early_stopping", "never"), {}, 9, false).early_stopping,
            EarlyStopping::kNever);
  json no_start = {{"pad_token_id", 4}, {"eos_token_id", 2}};
  EXPECT_EQ(read_generation(no_start, {}, 9, true).decoder_start_id, 4);
  EXPECT_THROW(read_generation(no_start, {}, 9, false), UsageError);
  no_start["bos_token_id"] = 0;
  EXPECT_EQ(read_generation(no_start, {}, 9, true).decoder_start_id, 0);
}

// Without it a setting that nothing here computes would change no token, without a word.
TEST(Generation, ListsWhatIsNotSupported) {
  EXPECT_TRUE(read_generation(with("typical_p", 1.0), {}, 9, false).unsupported.empty());
  EXPECT_EQ(read_generation(with("typical_p", 0.5), {}, 9, false).unsupported,
            std::vector<std::string>{"typical_p"});
  EXPECT_EQ(read_generation(with("num_beam_groups", 2), {}, 9, false).unsupported,
            std::vector<std::string>{"num_beam_groups"});
}

// Without it a wrong value would reach the search.
TEST(Generation, NamesTheField) {
  const std::pair<const char*, json> bad[] = {{"eos_token_id", 9},
                                              {"eos_token_id", -1},
                                              {"eos_token_id", "2"},
                                              {"eos_token_id", 1.5},
                                              {"forced_bos_token_id", 100},
                                              {"bad_words_ids", json::parse("[1]")},
                                              {"bad_words_ids", json::parse("[[]]")},
                                              {"bad_words_ids", json::parse("[[9]]")},
                                              {"num_beams", 0},
                                              {"num_beams", 1.5},
                                              {"num_return_sequences", 2},
                                              {"temperature", 0},
                                              {"top_p", 1.1},
                                              {"top_p", 0},
                                              {"repetition_penalty", 0},
                                              {"no_repeat_ngram_size", -1},
                                              {"early_stopping", "always"},
                                              {"max_length", 1},
                                              {"max_length", 1e300},
                                              {"do_sample", 1}};
  for (const auto& [key, value] : bad) {
    try {
      read_generation(with(key, value), {}, 9, false);
      ADD_FAILURE() << key << " " << value;
    } catch (const UsageError& e) {
      EXPECT_NE(std::string(e.what()).find(key), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace tandem
