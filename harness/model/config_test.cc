#include "harness/model/config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "harness/base/error.h"

namespace tandem {
namespace {

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const UsageError& e) {
    return e.what();
  }
  return "nothing was thrown";
}

// A family would run with another family's conventions.
TEST(Presets, Conventions) {
  for (const std::string& name : preset_names()) {
    const ModelConfig c = preset(name);
    EXPECT_EQ(c.name, name);
    EXPECT_NO_THROW(check(c)) << name;
  }
  const ModelConfig t5 = preset("t5-3b");
  EXPECT_EQ(t5.inner(t5.encoder), 4096);
  EXPECT_EQ(t5.attention_scale, 1);
  EXPECT_DOUBLE_EQ(t5.head_scale, 1 / std::sqrt(1024.0));
  const ModelConfig flan = preset("flan-t5-xl");
  EXPECT_TRUE(flan.gated && !flan.tied_head && flan.shared_embeddings && flan.head_scale == 1);
  const ModelConfig marian = preset("marian-base");
  EXPECT_EQ(marian.pad_id, 58100);
  EXPECT_EQ(marian.decoder_start_id, 58100);
  EXPECT_EQ(marian.eos_id, 0);
  const ModelConfig nllb = preset("nllb-3.3b");
  EXPECT_EQ(nllb.head_dim, 128);
  EXPECT_TRUE(nllb.sinusoid_spans_end);
  EXPECT_EQ(nllb.attention_scale, 1 / std::sqrt(128.0));
  EXPECT_NE(error_of([] { preset("t5-huge"); }).find("transformer-base"), std::string::npos);
}

// A model written to a record could not be measured again.
TEST(ConfigJson, RoundTrip) {
  for (const std::string& name : preset_names()) {
    const ModelConfig c = preset(name);
    const std::string text = nlohmann::json(c).dump();
    EXPECT_EQ(nlohmann::json::parse(text).get<ModelConfig>(), c) << text;
  }
}

// A misspelt field would silently keep its default.
TEST(ConfigJson, RefusesWhatItDoesNotKnow) {
  const auto error = [](const char* text) {
    return error_of([&] { nlohmann::json::parse(text).get<ModelConfig>(); });
  };
  EXPECT_NE(error(R"({"d_modle": 8})").find("unknown field 'd_modle'; allowed: name d_model"),
            std::string::npos);
  EXPECT_NE(error(R"({"encoder": {"layer": 8}})").find("'encoder.layer'; allowed: layers heads d_ff"),
            std::string::npos);
  EXPECT_NE(error(R"({"norm": "batch"})").find("norm: \"batch\" is not one of layer rms"), std::string::npos);
  EXPECT_NE(error(R"({"d_model": 8.5})").find("d_model: 8.5 is not an integer"), std::string::npos);
  EXPECT_NE(error(R"({"d_model": 1e12})").find("d_model"), std::string::npos);
  EXPECT_NE(error(R"({"bias": 1})").find("bias: 1 is not true or false"), std::string::npos);
  EXPECT_NE(error(R"({"encoder": 3})").find("encoder: 3 is not an object"), std::string::npos);
  EXPECT_NE(error("[1]").find("is not an object"), std::string::npos);
}

// attention_scale would stay at the default head_dim's.
TEST(ConfigJson, DefaultAttentionScaleFollowsHeadDim) {
  const ModelConfig c = nlohmann::json::parse(R"({"head_dim": 16, "d_model": 32})").get<ModelConfig>();
  EXPECT_EQ(c.attention_scale, 0.25);
  EXPECT_EQ(
      nlohmann::json::parse(R"({"head_dim": 16, "attention_scale": 1})").get<ModelConfig>().attention_scale,
      1);
}

// An impossible model would fail deep inside an engine.
TEST(ConfigCheck, NamesTheField) {
  const auto error = [](auto change) {
    ModelConfig c = preset("tiny");
    change(c);
    return error_of([&] { check(c); });
  };
  EXPECT_NE(error([](ModelConfig& c) { c.d_model = 0; }).find("d_model: 0"), std::string::npos);
  EXPECT_NE(error([](ModelConfig& c) { c.d_model = 63; }).find("d_model: 63"), std::string::npos);
  EXPECT_NE(error([](ModelConfig& c) { c.encoder.layers = 0; }).find("encoder.layers"), std::string::npos);
  EXPECT_NE(error([](ModelConfig& c) { c.decoder.heads = -1; }).find("decoder.heads"), std::string::npos);
  EXPECT_NE(
      error([](ModelConfig& c) { c.eos_id = 256; }).find("eos_id: 256 is not between 0 and vocab - 1 = 255"),
      std::string::npos);
  EXPECT_NE(error([](ModelConfig& c) { c.norm_eps = 0; }).find("norm_eps"), std::string::npos);
  EXPECT_NE(error([](ModelConfig& c) { c.attention_scale = NAN; }).find("attention_scale"),
            std::string::npos);
  EXPECT_NE(error([](ModelConfig& c) { c.position_offset = -1; }).find("position_offset"), std::string::npos);
  const auto relative = [](ModelConfig& c) {
    c.position = Position::kRelative;
    c.relative_max_distance = 16;
  };
  EXPECT_NE(error(relative).find("relative_max_distance: 16"), std::string::npos);
}

// `--model FILE` would not work, or a typo would be taken for a file.
TEST(LoadModel, PresetOrFile) {
  EXPECT_EQ(load_model("tiny"), preset("tiny"));
  const std::string path = ::testing::TempDir() + "tandem_config_" + std::to_string(getpid()) + ".json";
  std::ofstream(path) << nlohmann::json(preset("marian-base"));
  EXPECT_EQ(load_model(path), preset("marian-base"));
  std::ofstream(path) << R"({"vocab": 1)";
  EXPECT_NE(error_of([&] { load_model(path); }).find(path), std::string::npos);
  std::ofstream(path) << R"({"eos_id": 99999})";
  EXPECT_NE(error_of([&] { load_model(path); }).find("eos_id: 99999"), std::string::npos);
  std::filesystem::remove(path);
  EXPECT_THROW(load_model(path), IoError);
  EXPECT_THROW(load_model("tinny"), UsageError);
}

}  // namespace
}  // namespace tandem
