#include "harness/model/generation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "harness/base/error.h"
#include "harness/model/config.h"

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
  const GenerationConfig g = read_generation(j, json::object(), 20);
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
// transformers' (CHECKPOINTS.md): ids that generation_config.json lacks do not come from config.json.
TEST(Generation, WhichFileAndWhichFieldCounts) {
  const json config = with("num_beams", 6);
  EXPECT_EQ(read_generation(json(), config, 9).beams, 6);
  EXPECT_EQ(read_generation(kIds, config, 9).beams, 1);
  const GenerationConfig empty = read_generation(json::object(), config, 9);
  EXPECT_TRUE(empty.eos_ids.empty());
  EXPECT_EQ(empty.decoder_start_id, kNoId);
  EXPECT_EQ(read_generation(with("max_new_tokens", 5), {}, 9).max_length, 6);
  EXPECT_EQ(read_generation(with("min_new_tokens", 5), {}, 9).min_length, 6);
  EXPECT_EQ(read_generation(with("early_stopping", "never"), {}, 9).early_stopping, EarlyStopping::kNever);
  json no_start = {{"pad_token_id", 4}, {"eos_token_id", 2}};
  EXPECT_THROW(check(read_generation(no_start, {}, 9), 9), UsageError);
  no_start["bos_token_id"] = 0;
  EXPECT_EQ(read_generation(no_start, {}, 9).decoder_start_id, 0);
}

// Breaks when a folder that names no length ends elsewhere than after transformers' 20 new tokens, or after its positions.
TEST(Generation, LengthWhereNoFileNamesOne) {
  EXPECT_EQ(read_generation(kIds, json::object(), 9).max_length, 21);
  EXPECT_EQ(read_generation(kIds, {{"max_position_embeddings", 16}}, 9).max_length, 16);
  EXPECT_EQ(read_generation(with("max_length", 30), {{"max_position_embeddings", 16}}, 9).max_length, 30);
  EXPECT_EQ(read_generation(json(), with("max_length", 12), 9).max_length, 12);
}

// Breaks when the name that old BART folders have for a forced first token is not read, or is read beside the newer file.
TEST(Generation, OldNames) {
  json config = with("bos_token_id", 0);
  config["force_bos_token_to_be_generated"] = true;
  EXPECT_EQ(read_generation(json(), config, 9).forced_bos_id, 0);
  EXPECT_FALSE(read_generation(kIds, config, 9).forced_bos_id);
  config["force_bos_token_to_be_generated"] = false;
  EXPECT_FALSE(read_generation(json(), config, 9).forced_bos_id);
}

ModelConfig model_of(int vocab) {
  ModelConfig c;
  c.vocab = vocab;
  return c;
}

// Without it a setting that nothing here computes would change no token, without a word; or one that does not matter in
// this mode would make a folder unusable.
TEST(Generation, RefusesWhatIsNotSupportedWhereItMatters) {
  const auto said = [](json file, GenerationConfig change = {}) -> std::string {
    GenerationConfig g = read_generation(file, {}, 9);
    g.sample = g.sample || change.sample;
    g.beams = std::max(g.beams, change.beams);
    try {
      check_fits(g, model_of(9), 1);
    } catch (const UsageError& e) {
      return e.what();
    }
    return "";
  };
  GenerationConfig sampling, beams;
  sampling.sample = true;
  beams.beams = 2;
  EXPECT_EQ(said(with("typical_p", 1.0), sampling), "");
  EXPECT_EQ(said(with("typical_p", 0.5)), "") << "nothing is drawn";
  EXPECT_EQ(said(with("typical_p", 0.5), sampling), "generation: typical_p: not supported");
  EXPECT_EQ(said(with("num_beam_groups", 2)), "");
  EXPECT_EQ(said(with("num_beam_groups", 2), beams), "generation: num_beam_groups: not supported");
  EXPECT_EQ(said(with("penalty_alpha", 0.6), beams), "");
  EXPECT_EQ(said(with("penalty_alpha", 0.6)), "generation: penalty_alpha: not supported");
  EXPECT_EQ(said(with("guidance_scale", 2)), "generation: guidance_scale: not supported");
  EXPECT_EQ(said(with("temperature", 0.0)), "");
  EXPECT_NE(said(with("temperature", 0.0), sampling).find("temperature: 0 is not above 0"),
            std::string::npos);
  EXPECT_EQ(said(with("top_p", 7)), "");
  sampling.beams = 2;
  EXPECT_NE(said(kIds, sampling).find("do_sample together with num_beams"), std::string::npos);
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
                                              {"repetition_penalty", 0},
                                              {"no_repeat_ngram_size", -1},
                                              {"early_stopping", "always"},
                                              {"max_length", 1},
                                              {"max_length", 1e300},
                                              {"max_length", 1000000000},
                                              {"do_sample", 1}};
  for (const auto& [key, value] : bad) {
    try {
      check(read_generation(with(key, value), {}, 9), 9);
      ADD_FAILURE() << key << " " << value;
    } catch (const UsageError& e) {
      EXPECT_NE(std::string(e.what()).find(key), std::string::npos) << e.what();
      // Too large is not said to be of another type.
      const bool large = value.is_number() && value.get<double>() == 1e9;
      EXPECT_TRUE(!large || std::string(e.what()).find("is not between") != std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace tandem
