#include "harness/weights/values/checkpoint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "harness/base/error.h"
#include "harness/weights/materialise.h"
#include "harness/weights/testing/checkpoint_writer.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::NamedTensor;
using Files = std::map<std::string, std::vector<NamedTensor>>;

class Variants : public ::testing::TestWithParam<std::string> {};

// Breaks when a published way of writing a checkpoint is not read whole: every value in its place, ties taken once.
TEST_P(Variants, ReadsEveryValue) {
  const json fixture = testing::checkpoint_fixture(GetParam());
  const testing::TestFolder folder;
  testing::write_checkpoint(folder.path(), fixture);
  const Checkpoint checkpoint(folder.path().string());
  const ModelConfig& c = checkpoint.config();
  EXPECT_EQ(c, load_model(folder.path().string()));
  EXPECT_EQ(c.vocab, fixture["config"]["vocab_size"]);
  EXPECT_EQ(c.eos_id, fixture["generation"]["eos_token_id"]);
  EXPECT_EQ(c.decoder_start_id, fixture["generation"]["decoder_start_token_id"]);
  const bool own_head = GetParam() == "t5_v1_1" || GetParam() == "mt5";
  EXPECT_EQ(c.tied_head, !own_head);
  EXPECT_TRUE(c.shared_embeddings);
  EXPECT_EQ(c.head_scale != 1, GetParam() == "t5");

  const HostWeights read = host_weights(c, checkpoint);
  EXPECT_TRUE(checkpoint.warnings().empty());
  // Ours are the stored ones in another order, less what nobody reads and what is there twice.
  std::vector<float> ours, theirs;
  for (const TensorSpec& t : read.layout.tensors) {
    const auto values = read.tensor(t.name);
    ours.insert(ours.end(), values.begin(), values.end());
  }
  std::set<std::string> streams;
  for (const auto& [file, tensors] : testing::fixture_files(fixture)) {
    for (const NamedTensor& t : tensors) {
      if (hf_ignored(checkpoint.family(), t.name)) continue;
      std::string stream;
      for (const json& row : fixture["tensors"]) {
        if (row[1] == t.name) stream = row[4];
      }
      if (!streams.insert(stream).second) continue;
      const size_t width = t.dtype == "F32" ? 4 : 2;
      for (size_t i = 0; i < t.bytes.size(); i += width) {
        float wide = 0;
        uint16_t half = 0;
        std::memcpy(width == 4 ? static_cast<void*>(&wide) : &half, t.bytes.data() + i, width);
        theirs.push_back(width == 4 ? wide : t.dtype == "F16" ? fp16_to_float(half) : bf16_to_float(half));
      }
    }
  }
  std::sort(ours.begin(), ours.end());
  std::sort(theirs.begin(), theirs.end());
  EXPECT_EQ(ours, theirs);
}

// Breaks when a large checkpoint cannot be checked by a smaller model with the same values.
TEST_P(Variants, AWitnessTakesTheFirstLayersAndRows) {
  const testing::TestFolder folder;
  testing::write_checkpoint(folder.path(), testing::checkpoint_fixture(GetParam()));
  const Checkpoint checkpoint(folder.path().string());
  ModelConfig small = checkpoint.config();
  small.encoder.layers = small.decoder.layers = 1;
  small.vocab = 50;
  small.pad_id = small.eos_id = small.decoder_start_id = 0;
  const HostWeights all = host_weights(checkpoint.config(), checkpoint);
  const HostWeights part = host_weights(small, checkpoint);
  for (const TensorSpec& t : part.layout.tensors) {
    const auto values = part.tensor(t.name);
    EXPECT_TRUE(std::equal(values.begin(), values.end(), all.tensor(t.name).begin())) << t.name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Variants, ::testing::ValuesIn(testing::checkpoint_variants()),
                         [](const auto& info) { return info.param; });

/// What reading says after `spoil` has changed the fixture, its files or its folder.
struct Spoil {
  std::function<void(json& fixture, Files& files)> content = nullptr;
  std::function<void(const fs::path& folder)> folder = nullptr;
};
std::string complaint(const std::string& variant, const Spoil& spoil) {
  json fixture = testing::checkpoint_fixture(variant);
  Files files = testing::fixture_files(fixture);
  if (spoil.content) spoil.content(fixture, files);
  const testing::TestFolder folder;
  testing::write_checkpoint(folder.path(), fixture, files);
  if (spoil.folder) spoil.folder(folder.path());
  try {
    const Checkpoint checkpoint(folder.path().string());
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}
void expect_complaint(const std::string& variant, const Spoil& spoil, const std::vector<std::string>& parts) {
  const std::string said = complaint(variant, spoil);
  for (const std::string& part : parts)
    EXPECT_NE(said.find(part), std::string::npos) << part << " in: " << said;
}
Spoil config_is(const char* key, const json& value) {
  return {.content = [=](json& fixture, Files&) { fixture["config"][key] = value; }};
}

// Without it a wrong folder would crash, or compute something without a word.
TEST(BadCheckpoint, NamesFileAndTensor) {
  const std::string file = "model.safetensors";
  EXPECT_EQ(complaint("t5", {}), "");
  expect_complaint("t5", {.content = [&](json&, Files& f) { f[file].pop_back(); }},
                   {"missing tensor shared.weight"});
  expect_complaint("m2m100", {.content = [](json&, Files& f) { f.begin()->second.pop_back(); }},
                   {"1 missing tensor(s): model.decoder."});
  expect_complaint("bart",
                   {.content =
                        [&](json&, Files& f) {
                          f[file].push_back({"extra.x", "F16", {1}, "ab"});
                        }},
                   {"1 tensor(s) that bart does not use: extra.x"});
  expect_complaint("t5",
                   {.content =
                        [&](json&, Files& f) {
                          f[file].front().shape = {1, 2}, f[file].front().bytes.resize(8);
                        }},
                   {"model.safetensors: tensor", "shape [1, 2] is not [", "config.json"});
  expect_complaint("t5", {.content = [&](json&, Files& f) { f[file].front().dtype = "I32"; }},
                   {"model.safetensors: tensor", "dtype I32 is not F32, F16 or BF16"});
  expect_complaint("mt5",
                   {.folder = [](const fs::path& p) { fs::remove(p / "model-00002-of-00003.safetensors"); }},
                   {"model-00002-of-00003.safetensors", "No such file"});
  expect_complaint(
      "mt5", {.folder = [](const fs::path& p) { fs::remove(p / "model.safetensors.index.json"); }},
      {"no model.safetensors and no model.safetensors.index.json", "model-00003-of-00003.safetensors"});
  expect_complaint("mt5",
                   {.folder =
                        [](const fs::path& p) {
                          testing::write_text(p / "model.safetensors.index.json",
                                              R"({"weight_map":{"a":"../b"}})");
                        }},
                   {"model.safetensors.index.json", "'a'", "not a file of this folder"});
  expect_complaint("mt5",
                   {.folder =
                        [](const fs::path& p) {
                          const fs::path index = p / "model.safetensors.index.json";
                          json j = json::parse(testing::read_text(index));
                          j["weight_map"]["ghost"] = "model-00001-of-00003.safetensors";
                          testing::write_text(index, j.dump());
                        }},
                   {"'ghost' is not in model-00001-of-00003.safetensors"});
  expect_complaint(
      "mt5", {.content = [](json&, Files& f) { f.begin()->second.push_back(f.rbegin()->second.front()); }},
      {"is in", "too"});
  expect_complaint("t5", {.folder = [&](const fs::path& p) { fs::resize_file(p / file, 4000); }},
                   {"model.safetensors", "cut off"});
  expect_complaint("t5", {.folder = [&](const fs::path& p) { fs::remove(p / file); }},
                   {"no model.safetensors"});
  expect_complaint("t5", {.folder = [](const fs::path& p) { fs::remove(p / "config.json"); }},
                   {"config.json", "cannot read"});
  expect_complaint("t5", {.folder = [](const fs::path& p) { testing::write_text(p / "config.json", "{"); }},
                   {"config.json: not JSON"});
}

// Breaks when an old set of weights beside a new one is read, or the newer file of a folder without an index is guessed.
TEST(Checkpoint, OneSetOfWeightsCounts) {
  const json fixture = testing::checkpoint_fixture("t5");
  json stale = fixture;
  stale["seed"] = fixture["seed"].get<uint64_t>() + 1;
  const testing::TestFolder folder;
  const auto first_value = [&] {
    const Checkpoint checkpoint(folder.path().string());
    return host_weights(checkpoint.config(), checkpoint).tensor("shared.embedding")[0];
  };
  // An index and its shard of other values.
  Files files = testing::fixture_files(stale);
  testing::write_checkpoint(folder.path(), stale,
                            {{"model-00001-of-00001.safetensors", files["model.safetensors"]}});
  json map = json::object();
  for (const NamedTensor& t : files["model.safetensors"]) map[t.name] = "model-00001-of-00001.safetensors";
  testing::write_text(folder.path() / "model.safetensors.index.json", json{{"weight_map", map}}.dump());
  const float old_value = first_value();
  testing::write_checkpoint(folder.path(), fixture);
  const float new_value = first_value();
  EXPECT_NE(old_value, new_value) << "model.safetensors counts";
  // What config.json names counts over both.
  json named = fixture["config"];
  named["transformers_weights"] = "model.safetensors.index.json";
  testing::write_text(folder.path() / "config.json", named.dump());
  EXPECT_EQ(first_value(), old_value);
  named["transformers_weights"] = "../model.safetensors";
  testing::write_text(folder.path() / "config.json", named.dump());
  EXPECT_THROW(first_value(), UsageError);
  // The index of shards that are gone does not matter beside the single file; alone it names the missing one.
  testing::write_text(folder.path() / "config.json", fixture["config"].dump());
  fs::remove(folder.path() / "model-00001-of-00001.safetensors");
  EXPECT_EQ(first_value(), new_value);
  fs::remove(folder.path() / "model.safetensors");
  EXPECT_THROW(first_value(), IoError);
}

// Breaks when a field that says the same as another and differs, or another name of a field, is not taken as transformers
// takes it.
TEST(Checkpoint, FieldsThatSayTheSame) {
  const auto config_with = [](const std::string& variant, const json& edits) {
    json fixture = testing::checkpoint_fixture(variant);
    fixture["config"].update(edits);
    const testing::TestFolder folder;
    testing::write_checkpoint(folder.path(), fixture);
    return load_model(folder.path().string());
  };
  EXPECT_EQ(config_with("t5", {{"dense_act_fn", "gelu_new"}}).activation, Activation::kGeluTanh);
  EXPECT_EQ(config_with("t5", {{"feed_forward_proj", "silu"}, {"dense_act_fn", "relu"}}).activation,
            Activation::kRelu);
  EXPECT_TRUE(config_with("t5", {{"is_gated_act", true}}).gated);
  EXPECT_EQ(config_with("t5", {{"num_hidden_layers", 2}}).encoder.layers, 2);
  EXPECT_EQ(config_with("bart", {{"num_hidden_layers", 2}}).encoder.layers, 2);
  EXPECT_EQ(config_with("bart", {{"num_hidden_layers", 2}}).decoder.layers, 2);
}

// Without it a table that somebody trained would be replaced by the computed one, without a word.
TEST(BadCheckpoint, APositionTableOfItsOwn) {
  const Spoil spoil{.content = [](json&, Files& f) {
    for (NamedTensor& t : f.begin()->second) {
      if (t.name == "model.decoder.embed_positions.weight")
        t.bytes = testing::stored_bytes(std::vector<float>(t.bytes.size() / 4, 0.5f), "F32");
    }
  }};
  expect_complaint("marian", spoil, {"model.decoder.embed_positions.weight", "not the sinusoidal table"});
}

// Without it a family that nothing here computes, or a size that the weights do not have, would be computed as another.
TEST(BadCheckpoint, NamesTheField) {
  expect_complaint("t5", config_is("model_type", "umt5"), {"config.json", "model_type", "umt5", "m2m_100"});
  expect_complaint("t5", config_is("model_type", nullptr), {"model_type: missing"});
  // Codes read as weights, or a complaint about one of their tensors that does not say why.
  expect_complaint("t5", config_is("quantization_config", {{"quant_method", "gptq"}, {"bits", 4}}),
                   {"config.json", "quantization_config", "gptq", "precision"});
  expect_complaint("t5", config_is("d_model", "x"), {"d_model: \"x\" is not an integer"});
  expect_complaint("t5", config_is("d_model", nullptr), {"d_model: missing"});
  expect_complaint("t5", config_is("num_layers", -1), {"encoder.layers: -1"});
  expect_complaint("t5", config_is("num_layers", 4), {"8 missing tensor(s): encoder.block.3."});
  expect_complaint("t5", config_is("feed_forward_proj", "gated-mish"), {"feed_forward_proj", "mish"});
  expect_complaint("bart", config_is("activation_function", "mish"), {"activation_function", "mish"});
  expect_complaint("bart", config_is("encoder_attention_heads", 7),
                   {"encoder_attention_heads: 7", "divisor"});
  expect_complaint("marian", config_is("decoder_vocab_size", 5), {"decoder_vocab_size: 5"});
  expect_complaint("t5", config_is("dense_act_fn", nullptr), {"dense_act_fn: null"});
  expect_complaint("bart", config_is("activation_function", nullptr), {"activation_function: null"});
  expect_complaint("bart", {.content = [](json& j, Files&) { j["generation"]["eos_token_id"] = 149; }},
                   {"generation_config.json", "eos_token_id: 149", "between 0 and 148"});
}

// Breaks when a copy of a tied table that is not equal is dropped, as if it had been.
TEST(Checkpoint, TablesThatDifferAreTablesOfTheirOwn) {
  const json fixture = testing::checkpoint_fixture("bart");
  Files files = testing::fixture_files(fixture);
  const testing::TestFolder folder;
  for (NamedTensor& t : files.begin()->second) {
    if (t.name == "lm_head.weight") t.bytes[0] ^= 1;
  }
  testing::write_checkpoint(folder.path(), fixture, files);
  EXPECT_FALSE(load_model(folder.path().string()).tied_head);
  EXPECT_TRUE(load_model(folder.path().string()).shared_embeddings);
  for (NamedTensor& t : files.begin()->second) {
    if (t.name == "model.encoder.embed_tokens.weight") t.bytes[0] ^= 1;
  }
  testing::write_checkpoint(folder.path(), fixture, files);
  EXPECT_FALSE(load_model(folder.path().string()).shared_embeddings);
}

// Breaks when checkpoints of the model without its head (facebook/bart-base) cannot be read.
TEST(Checkpoint, NamesWithoutAPrefix) {
  const json fixture = testing::checkpoint_fixture("mbart");
  Files files = testing::fixture_files(fixture);
  std::erase_if(files.begin()->second, [](const NamedTensor& t) { return t.name == "final_logits_bias"; });
  for (NamedTensor& t : files.begin()->second) {
    if (t.name.starts_with("model.")) t.name = t.name.substr(6);
  }
  const testing::TestFolder folder;
  testing::write_checkpoint(folder.path(), fixture, files);
  EXPECT_FALSE(load_model(folder.path().string()).head_bias);
}

// Breaks when a broken training run's weights are measured without a word.
TEST(Checkpoint, WarnsOfNan) {
  const json fixture = testing::checkpoint_fixture("t5");
  Files files = testing::fixture_files(fixture);
  for (NamedTensor& t : files.begin()->second) {
    if (t.name == "encoder.final_layer_norm.weight") std::memset(t.bytes.data() + 4, 0xff, 4);
  }
  const testing::TestFolder folder;
  testing::write_checkpoint(folder.path(), fixture, files);
  const Checkpoint checkpoint(folder.path().string());
  EXPECT_TRUE(checkpoint.warnings().empty()) << "nothing was read yet";
  const WeightLayout layout = weight_layout(checkpoint.config(), {.precision = Precision::kBf16});
  std::vector<std::byte> arena(static_cast<size_t>(layout.bytes));
  materialise(checkpoint, layout, {.host = arena});
  EXPECT_EQ(checkpoint.warnings(),
            std::vector<std::string>{"warning: " + folder.path().string() +
                                     ": tensor encoder.final_layer_norm.weight holds NaN"});
}

}  // namespace
}  // namespace tandem
