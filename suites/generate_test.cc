// `tandem generate` end to end: the binaries as a user has them.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <sys/wait.h>
#include <algorithm>

#include <cstdio>

#include "harness/weights/testing/checkpoint_writer.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct Ran {
  std::vector<std::string> lines;  // of stdout
  std::string errors;              // stderr, where a coverage build talks too
  int code = -1;
};

Ran run(const std::string& arguments, const std::string& binary = TANDEM_BINARY) {
  testing::TestFolder folder;
  const fs::path errors = folder.path() / "stderr";
  const std::string command = binary + " " + arguments + " 2>" + errors.string();
  FILE* pipe = ::popen(command.c_str(), "r");
  Ran ran;
  std::string line;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) {
    if (c != '\n') {
      line.push_back(static_cast<char>(c));
    } else {
      ran.lines.push_back(std::move(line));
      line.clear();
    }
  }
  const int status = ::pclose(pipe);
  ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  ran.errors = testing::read_text(errors);
  return ran;
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
  expect_usage("--max-new-tokens 201", "beyond the 200 positions");
  expect_usage("--forced-bos 999", "forced_bos_token_id: 999");
  testing::write_text(folder_.path() / "ids", "1 2\n\n3\n");
  expect_usage("", "ids:2: no id in it");
  testing::write_text(folder_.path() / "ids", "1 197\n");
  expect_usage("", "ids:1: '197' is not an id between 0 and 196");
  std::string long_line = "5";
  for (int i = 0; i < 200; ++i) long_line += " 5";
  testing::write_text(folder_.path() / "ids", long_line);
  expect_usage("", "length 201 is beyond the 200 positions");
  fs::remove(folder_.path() / "m" / "model-00002-of-00002.safetensors");
  expect_usage("", "model-00002-of-00002.safetensors: cannot open", 1);
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
  EXPECT_EQ(run(files() + "--max-new-tokens 2 --ids-only").lines[0].find('\t'), std::string::npos);
}

}  // namespace
}  // namespace tandem
