// `tandem generate` end to end: the binaries as a user has them.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "harness/weights/testing/checkpoint_writer.h"
#include "suites/testing/run_binary.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

using testing::Ran;

Ran run(const std::string& arguments, const std::string& binary = TANDEM_BINARY) {
  return testing::run_binary(binary, arguments);
}

class Generate : public ::testing::Test {
 protected:
  Generate() {
    testing::write_checkpoint(folder_.path() / "m", fixture_);
    std::string text;
    for (size_t i = 1; i <= kLines; ++i) text.append(as_line(sources_[i])).append("\n");
    testing::write_text(folder_.path() / "ids", text);
  }
  static std::string as_line(const std::vector<int32_t>& ids) {
    return fmt::format("{}", fmt::join(ids, " "));
  }
  std::string files() const {
    return "generate " + (folder_.path() / "m").string() + " --input-ids " +
           (folder_.path() / "ids").string() + " --engine reference ";
  }

  static constexpr size_t kLines = 5;
  testing::TestFolder folder_;
  json fixture_ = testing::checkpoint_fixture("m2m100");
  std::vector<std::vector<int32_t>> sources_ = testing::fixture_sources("m2m100", fixture_);
};

// Breaks when what a user sees is not what transformers generates from the same folder, the folder's own settings
// included.
TEST_F(Generate, PrintsTransformersTokens) {
  const Ran ran = run(files() + "--max-new-tokens 64");
  EXPECT_EQ(ran.code, 0);
  ASSERT_EQ(ran.lines.size(), kLines);
  for (size_t i = 0; i < kLines; ++i) {
    EXPECT_EQ(ran.lines[i], as_line(fixture_["greedy"][i + 1].get<std::vector<int32_t>>())) << i;
  }
}

/// A folder of a variant after an edit, written as `name`.
struct Edit {
  const char* variant;
  const char* name;
  std::function<void(json& fixture)> change = nullptr;
  std::string flags = {};
  std::string tokens = {};
};

// Inputs of kinds that users of such tools report, with the first line that transformers 5.24 gives (torch 2.15, CPU, one
// source at a time). Breaks when a flag resets rules that it does not name, when ids come from a file that does not count,
// when an old name of a rule is not read, when one of two fields that differ is the wrong one, when a field that does not
// matter in this mode makes a folder unusable, or when computed positions end.
TEST_F(Generate, FoldersOfOthersDecodeAsTransformersDoes) {
  const auto no_generation = [](json& f) {
    f["config"]["max_length"] = 14;
    f["generation"] = nullptr;
  };
  const Edit edits[] = {{"mt5", "mt5", nullptr, "--decode beam:4 --max-new-tokens 16",
                         "137 226 226 226 89 224 162 36 226 226 137 174 89 89 89 226"},
                        {"bart", "bart", nullptr, "--decode beam:4 --max-new-tokens 16",
                         "0 98 98 98 17 98 98 54 98 17 17 98 17 54 98 22"},
                        {"bart", "bart_gen_nostart",
                         [](json& f) {
                           f["generation"].erase("decoder_start_token_id");
                           f["generation"]["max_length"] = 14;
                         },
                         "", "0 98 98 98 17 98 98 54 98 98 134 98 22"},
                        {"bart", "bart_forcebos_old",
                         [&](json& f) {
                           no_generation(f);
                           f["config"]["force_bos_token_to_be_generated"] = true;
                           f["config"]["forced_eos_token_id"] = 2;
                         },
                         "", "0 98 98 98 98 98 98 98 98 98 98 98 2"},
                        {"t5", "t5_dense_act",
                         [](json& f) {
                           f["config"]["dense_act_fn"] = "gelu_new";
                           f["generation"]["max_length"] = 14;
                         },
                         "", "74 161 84 161 154 161 62 161 75 161 62 161 62"},
                        {"t5", "t5_temp0",
                         [](json& f) {
                           f["generation"]["max_length"] = 14;
                           f["generation"]["temperature"] = 0.0;
                           f["generation"]["do_sample"] = false;
                         },
                         "", "74 161 84 161 124 161 62 161 75 161 62 161 62"}};
  const std::string ids = (folder_.path() / "src.txt").string();
  testing::write_text(ids, "21 76 112 106 101\n");
  for (const Edit& e : edits) {
    json fixture = testing::checkpoint_fixture(e.variant);
    if (e.change) e.change(fixture);
    const fs::path at = folder_.path() / e.name;
    testing::write_checkpoint(at, fixture);
    if (fixture["generation"].is_null()) fs::remove(at / "generation_config.json");
    const Ran ran =
        run("generate " + at.string() + " --engine reference --ids-only --input-ids " + ids + " " + e.flags);
    EXPECT_EQ(ran.code, 0) << e.name << ran.errors;
    ASSERT_EQ(ran.lines.size(), 1u) << e.name;
    EXPECT_EQ(ran.lines[0], e.tokens) << e.name;
  }
  // Temperature 0 does matter where tokens are drawn.
  const Ran drawn = run("generate " + (folder_.path() / "t5_temp0").string() +
                        " --engine reference --decode top_k:4 --input-ids " + ids);
  EXPECT_EQ(drawn.code, 2);
  EXPECT_NE(drawn.errors.find("temperature: 0 is not above 0"), std::string::npos) << drawn.errors;
  // And a folder is measured whatever its rules of decoding say.
  const std::string suite = (fs::path(TANDEM_BINARY).parent_path() / "suite_encoder").string();
  EXPECT_EQ(run("--model " + (folder_.path() / "t5_temp0").string() +
                    " --batch 1 --src 8 --precision fp32 --engine reference",
                suite)
                .code,
            0);
}

// Breaks when positions that are computed end with max_position_embeddings.
TEST_F(Generate, ComputedPositionsHaveNoEnd) {
  json fixture = testing::checkpoint_fixture("m2m100");
  fixture["config"]["max_position_embeddings"] = 16;
  fixture["generation"]["max_length"] = 14;
  testing::write_checkpoint(folder_.path() / "long", fixture);
  testing::write_text(
      folder_.path() / "ids",
      "34 79 73 20 51 81 64 84 78 12 81 5 120 111 64 37 74 33 28 95 64 73 111 74 64 54 85 114 23 33\n");
  const Ran ran = run("generate " + (folder_.path() / "long").string() +
                      " --engine reference --ids-only --input-ids " + (folder_.path() / "ids").string());
  ASSERT_EQ(ran.lines.size(), 1u) << ran.errors;
  EXPECT_EQ(ran.lines[0], "190 34 154 120 11 120 11 58 120 11 139 120 11");
}

// Breaks when scores, the number of hypotheses or the seed do not reach the search.
TEST_F(Generate, OptionsArrive) {
  const Ran scored = run(files() + "--max-new-tokens 5 --decode beam:3 --n-best 2 --scores");
  ASSERT_EQ(scored.lines.size(), 2 * kLines);
  EXPECT_LT(std::stod(scored.lines[0]), 0);
  EXPECT_NE(scored.lines[0].find('\t'), std::string::npos);
  const std::string sample = files() + "--max-new-tokens 20 --decode top_p:1 --seed ";
  EXPECT_EQ(run(sample + "3").lines, run(sample + "3").lines);
  EXPECT_NE(run(sample + "3").lines, run(sample + "4").lines);
  EXPECT_TRUE(run(files() + "--max-new-tokens 3 --forced-bos 42").lines[0].starts_with("42 "));
}

// Breaks when what is timed are other sources than those that were checked, or than the file's.
TEST_F(Generate, SuitesMeasureTheSameSources) {
  const std::string suite = (fs::path(TANDEM_BINARY).parent_path() / "suite_generate").string();
  const std::string ids = (folder_.path() / "ids").string();
  const Ran ran = run("--model " + (folder_.path() / "m").string() + " --input-ids " + ids +
                          " --tgt 3 --precision fp32 --engine reference --decode greedy,beam:2",
                      suite);
  EXPECT_EQ(ran.code, 0);
  ASSERT_EQ(ran.lines.size(), 2u);
  EXPECT_NE(ran.lines[0].find("/weights:checkpoint/lengths:ids:" + ids), std::string::npos) << ran.lines[0];
  EXPECT_NE(ran.lines[0].find("/batch:5/"), std::string::npos) << ran.lines[0];
}

// Breaks when a comma inside a value separates two: the values that sweep files take could not be given by hand.
TEST_F(Generate, ValuesOfASuitesFlagsMayHoldCommas) {
  const std::string suite = (fs::path(TANDEM_BINARY).parent_path() / "suite_generate").string();
  const Ran ran =
      run("--model tiny --src 4 --tgt 2 --precision fp32 --engine auto,reference --weights "
          "seed:0,outliers,seed:1 "
          "--decode greedy,top_k:4,temperature:0.8 --benchmark_list_tests",
          suite);
  EXPECT_EQ(ran.code, 0) << ran.errors;
  const auto listed = [&](const char* part) {
    return std::ranges::count_if(ran.lines,
                                 [&](const std::string& l) { return l.find(part) != std::string::npos; });
  };
  EXPECT_GE(listed("weights:seed:0,outliers"), 2);
  EXPECT_GE(listed("weights:seed:1"), 2);
  EXPECT_GE(listed("decode:top_k:4,temperature:0.8"), 2);
}

// Without it bad input would crash, or give tokens that mean nothing.
TEST_F(Generate, BadInputIsNamed) {
  const auto expect_usage = [&](const std::string& arguments, const std::string& part, int code = 2) {
    const Ran ran = run(files() + arguments);
    EXPECT_EQ(ran.code, code) << arguments;
    EXPECT_NE(ran.errors.find(part), std::string::npos) << ran.errors;
  };
  expect_usage("--decode beam:99", "decode: 'beam:99' is not allowed");
  expect_usage("--forced-bos 999", "forced_bos_token_id: 999");
  testing::write_text(folder_.path() / "ids", "1 2\n\n3\n");
  expect_usage("", "ids:2: no id in it");
  testing::write_text(folder_.path() / "ids", "1 197\n");
  expect_usage("", "ids:1: '197' is not an id between 0 and 196");
  // BART's positions are a table.
  testing::write_checkpoint(folder_.path() / "bart", testing::checkpoint_fixture("bart"));
  std::string long_line = "5";
  for (int i = 0; i < 203; ++i) long_line += " 5";
  testing::write_text(folder_.path() / "ids", long_line);
  const std::string with_table = "generate " + (folder_.path() / "bart").string() +
                                 " --engine reference --input-ids " + (folder_.path() / "ids").string();
  EXPECT_NE(run(with_table).errors.find("length 204 is beyond the 203 positions"), std::string::npos);
  testing::write_text(folder_.path() / "ids", "5\n");
  EXPECT_NE(run(with_table + " --max-new-tokens 204").errors.find("length 204 is beyond the 203 positions"),
            std::string::npos);
  fs::remove(folder_.path() / "m" / "model-00002-of-00002.safetensors");
  expect_usage("", "model-00002-of-00002.safetensors: cannot open", 1);
}

// Breaks when a mark that an editor puts before the first id, or a pipe that is read twice, gives no tokens; or when bytes
// that no terminal should get are printed.
TEST_F(Generate, IdsAsOtherProgramsWriteThem) {
  const std::string ids = (folder_.path() / "ids").string();
  const Ran plain = run(files() + "--max-new-tokens 4 --ids-only");
  testing::write_text(ids, "\xEF\xBB\xBF" + testing::read_text(ids));
  EXPECT_EQ(run(files() + "--max-new-tokens 4 --ids-only").lines, plain.lines);
  const std::string piped = "generate " + (folder_.path() / "m").string() +
                            " --input-ids /dev/stdin --engine reference --max-new-tokens 4 --ids-only < " +
                            ids;
  EXPECT_EQ(run(piped).lines, plain.lines) << run(piped).errors;
  testing::write_text(ids, "\xFF\xFE 1\x1b[31m\n");
  const Ran binary = run(files());
  EXPECT_EQ(binary.code, 2);
  EXPECT_NE(binary.errors.find("'\\xff\\xfe' is not an id between 0 and 196"), std::string::npos)
      << binary.errors;
}

// Breaks when a checkpoint's own text form is not shown beside the ids, where Python can make it.
TEST_F(Generate, TextBesideIds) {
  if (std::system("python3 -c 'import tokenizers' 2>/dev/null") != 0)
    GTEST_SKIP() << "python3 has no package tokenizers";
  json vocab = json::object();
  for (int id = 0; id < 197; ++id) vocab[fmt::format("w{}", id)] = id;
  testing::write_text(folder_.path() / "m" / "tokenizer.json",
                      json{{"version", "1.0"},
                           {"added_tokens", json::array()},
                           {"model", {{"type", "WordLevel"}, {"vocab", vocab}, {"unk_token", "w0"}}}}
                          .dump());
  const Ran ran = run(files() + "--max-new-tokens 2 --forced-bos 42");
  ASSERT_EQ(ran.lines.size(), kLines);
  EXPECT_NE(ran.lines[0].find("\tw42 w"), std::string::npos) << ran.lines[0];
  vocab.erase("w42");
  vocab["\t\r\x1b[31m"] = 42;
  testing::write_text(folder_.path() / "m" / "tokenizer.json",
                      json{{"version", "1.0"},
                           {"added_tokens", json::array()},
                           {"model", {{"type", "WordLevel"}, {"vocab", vocab}, {"unk_token", "w0"}}}}
                          .dump());
  EXPECT_NE(run(files() + "--max-new-tokens 2 --forced-bos 42").lines[0].find("\t\\t\\r\\x1b[31m w"),
            std::string::npos);
  EXPECT_EQ(run(files() + "--max-new-tokens 2 --ids-only").lines[0].find('\t'), std::string::npos);
}

}  // namespace
}  // namespace tandem
