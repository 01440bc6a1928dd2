// Which field of which file counts (harness/model/CHECKPOINTS.md): generated checkpoint folders and flags, decoded as
// transformers decodes them.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "harness/base/error.h"
#include "harness/sweep/values.h"
#include "harness/weights/materialise.h"
#include "harness/weights/testing/checkpoint_writer.h"
#include "harness/weights/values/checkpoint.h"
#include "reference/model/decode.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::NamedTensor;

const char* const kIndex = "model.safetensors.index.json";

std::string shard(int number) {
  return fmt::format("model-{:05}-of-00002.safetensors", number);
}

/// Files of weights of a variant, written once: right and stale values, in one file or in two with an index.
class WeightFiles {
 public:
  explicit WeightFiles(fs::path root) : root_(std::move(root)) {}

  /// The folder's files, as make_folders.py puts them for this word.
  void put(const fs::path& folder, const std::string& variant, const std::string& word) {
    const auto link = [&](int files, bool stale, const std::map<std::string, std::string>& names) {
      const fs::path made = this->made(variant, files, stale);
      for (const auto& [from, to] : names) fs::create_hard_link(made / from, folder / to);
    };
    const std::map<std::string, std::string> single = {{"model.safetensors", "model.safetensors"}};
    const std::map<std::string, std::string> shards = {{shard(1), shard(1)}, {shard(2), shard(2)}};
    std::map<std::string, std::string> indexed = shards;
    indexed[kIndex] = kIndex;
    if (word == "single") {
      link(1, false, single);
    } else if (word == "sharded") {
      link(2, false, indexed);
    } else if (word == "stale index") {
      link(1, false, single);
      link(2, true, indexed);
    } else if (word == "stale single named index") {
      link(1, true, single);
      link(2, false, indexed);
    } else if (word == "index without shards") {
      link(1, false, single);
      link(2, true, {{kIndex, kIndex}});
    } else if (word == "a shard is missing") {
      link(2, false, {{kIndex, kIndex}, {shard(1), shard(1)}});
    } else if (word == "shards without an index") {
      link(2, false, shards);
    } else if (word == "named") {
      link(1, true, single);
      link(1, false, {{"model.safetensors", "other.safetensors"}});
    } else if (word == "another name") {
      link(1, false, {{"model.safetensors", "weights.safetensors"}});
    } else {
      throw Error("folders.json: unknown weights: " + word);
    }
  }

 private:
  fs::path made(const std::string& variant, int files, bool stale) {
    fs::path folder = root_ / fmt::format("{}-{}-{}", variant, files, stale);
    if (fs::exists(folder)) return folder;
    json fixture = testing::checkpoint_fixture(variant);
    fixture["seed"] = fixture["seed"].get<uint64_t>() + (stale ? 1 : 0);
    json& tensors = fixture["tensors"];
    for (size_t i = 0; i < tensors.size(); ++i)
      tensors[i][0] = files == 1 ? "model.safetensors" : shard(static_cast<int>(i * 2 / tensors.size()) + 1);
    testing::write_checkpoint(folder, fixture);
    return folder;
  }
  fs::path root_;
};

/// The folder's configurations, after its edits.
void write_configs(const fs::path& folder, const json& row) {
  json config = testing::checkpoint_fixture(row["variant"])["config"];
  for (const json& key : row.value("drop", json::array())) config.erase(key.get<std::string>());
  config.update(row.value("put", json::object()));
  testing::write_text(folder / "config.json", config.dump());
  const json generation = row.value("generation", json::object());
  if (!generation.is_null()) testing::write_text(folder / "generation_config.json", generation.dump());
}

DecodeFlags flags_of(const json& row) {
  DecodeFlags flags;
  const auto words = row.value("flags", std::vector<std::string>{});
  for (size_t i = 0; i + 1 < words.size(); i += 2) {
    const std::string& value = words[i + 1];
    if (words[i] == "--decode") flags.decode = value;
    if (words[i] == "--max-new-tokens") flags.max_new_tokens = std::stoi(value);
    if (words[i] == "--forced-bos") flags.forced_bos = std::stoi(value);
    if (words[i] == "--n-best") flags.n_best = std::stoi(value);
  }
  return flags;
}

/// Tokens by source and rank, each source alone. Throws what a user is told.
std::vector<std::vector<std::vector<int32_t>>> decoded(const fs::path& folder, const json& row,
                                                       const std::vector<std::vector<int32_t>>& sources) {
  const Checkpoint checkpoint(folder.string());
  const ModelConfig& config = checkpoint.config();
  const GenerationConfig g = with_flags(checkpoint.generation(), flags_of(row), config.vocab);
  const HostWeights host = host_weights(config, checkpoint);
  std::vector<std::vector<std::vector<int32_t>>> all;
  for (const auto& source : sources) {
    check_fits(g, config, static_cast<int>(source.size()));
    auto& found = all.emplace_back();
    const auto best = reference::decode(config, host.weights(), pack(config, {source}), g);
    for (const reference::Hypothesis& h : best.front()) found.push_back(h.tokens);
  }
  return all;
}

class Folders : public ::testing::TestWithParam<std::string> {
 protected:
  static const json& all() {
    static const json content = json::parse(testing::read_text("suites/testdata/folders.json"));
    return content;
  }
};

// Breaks when a rule of decoding, an id, a field of the model or a set of weights comes from another file, field or flag than
// transformers takes it from; or when a folder that it cannot decode is decoded, or refused without the name of what is wrong.
TEST_P(Folders, DecodeAsTransformersDoes) {
  const testing::TestFolder scratch;
  WeightFiles weights(scratch.path() / "weights");
  const json fixture = testing::checkpoint_fixture(GetParam());
  const auto every = testing::fixture_sources(GetParam(), fixture);
  std::vector<std::vector<int32_t>> sources;
  for (const int at : all()["sources"][GetParam()]) sources.push_back(every[static_cast<size_t>(at)]);
  int count = 0;
  for (const json& row : all()["folders"]) {
    if (row["variant"] != GetParam()) continue;
    const fs::path folder = scratch.path() / fmt::format("folder-{}", ++count);
    fs::create_directories(folder);
    write_configs(folder, row);
    weights.put(folder, GetParam(), row.value("weights", "single"));
    const std::string what = row.dump();
    try {
      const json found = decoded(folder, row, sources);
      EXPECT_TRUE(row.contains("tokens")) << "transformers fails: " << what;
      if (row.contains("tokens")) {
        EXPECT_EQ(found, row["tokens"]) << what;
      }
    } catch (const Error& e) {
      ASSERT_TRUE(row.contains("refused")) << e.what() << " for " << what;
      EXPECT_NE(std::string(e.what()).find(row["refused"].get<std::string>()), std::string::npos)
          << e.what() << " for " << what;
    }
  }
  EXPECT_EQ(count, 40);
}

// Breaks when the recording no longer says what the page claims: 300 folders and more, 270 of them decoded.
TEST(FoldersRecording, HasEnoughOfThem) {
  const json content = json::parse(testing::read_text("suites/testdata/folders.json"));
  size_t equal = 0;
  for (const json& row : content["folders"]) equal += row.contains("tokens") ? 1 : 0;
  EXPECT_GE(content["folders"].size(), 300u);
  EXPECT_GE(equal, 270u);
}

INSTANTIATE_TEST_SUITE_P(All, Folders, ::testing::ValuesIn(testing::checkpoint_variants()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tandem
