// Tests only: checkpoint folders. A fixture of scripts/peers/fixtures/make_checkpoints.py names every tensor of a folder
// that transformers has read; values are a function of seed, name and index, so that the folder can be made again here,
// bit for bit.
#pragma once

#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "harness/base/random.h"
#include "harness/model/batch.h"
#include "harness/model/testing/safetensors_writer.h"
#include "harness/weights/values/seeded.h"

namespace tandem::testing {

inline const std::vector<std::string>& checkpoint_variants() {
  static const std::vector<std::string> all = {"t5",    "t5_v1_1", "mt5",    "bart",
                                               "mbart", "marian",  "m2m100", "nllb"};
  return all;
}

/// Tests run in the repository's root.
inline nlohmann::json checkpoint_fixture(const std::string& variant) {
  return nlohmann::json::parse(read_text("reference/testdata/checkpoints/" + variant + ".json"));
}

/// Marian's table of positions, [rows, cols]: all sines, then all cosines.
inline std::vector<float> sinusoid_halves(int64_t rows, int64_t cols) {
  std::vector<float> values(rows * cols);
  for (int64_t i = 0; i < rows * cols; ++i) {
    const int64_t half = cols / 2, pair = i % cols % half;
    const double angle = static_cast<double>(i / cols) / std::pow(10000.0, 2.0 * pair / cols);
    values[i] = static_cast<float>(i % cols < half ? std::sin(angle) : std::cos(angle));
  }
  return values;
}

/// All tensors of a fixture by file.
inline std::map<std::string, std::vector<NamedTensor>> fixture_files(const nlohmann::json& fixture) {
  const WeightsSpec seed{.checkpoint = false, .seed = fixture.at("seed"), .outliers = false};
  std::map<std::string, std::vector<NamedTensor>> files;
  for (const nlohmann::json& t : fixture.at("tensors")) {
    NamedTensor tensor{.name = t.at(1), .dtype = t.at(3), .shape = t.at(2), .bytes = {}};
    WholeTensor spec{.name = t.at(4)};
    spec.cols = tensor.shape.back();
    for (size_t i = 0; i + 1 < tensor.shape.size(); ++i) spec.rows *= tensor.shape[i];
    spec.base = t.at(5);
    spec.exponent = t.at(6);
    std::vector<float> values(spec.size());
    if (spec.name == "sinusoid") {
      values = sinusoid_halves(spec.rows, spec.cols);
    } else {
      fill_seeded(seed, spec, 0, values);
    }
    tensor.bytes = stored_bytes(values, tensor.dtype);
    files[t.at(0)].push_back(std::move(tensor));
  }
  return files;
}

/// config.json, generation_config.json, the files and, when there are several, their index.
inline void write_checkpoint(const std::filesystem::path& folder, const nlohmann::json& fixture,
                             const std::map<std::string, std::vector<NamedTensor>>& files) {
  std::filesystem::create_directories(folder);
  write_text(folder / "config.json", fixture.at("config").dump());
  write_text(folder / "generation_config.json", fixture.at("generation").dump());
  nlohmann::json map = nlohmann::json::object();
  for (const auto& [file, tensors] : files) {
    write_text(folder / file, safetensors_bytes(tensors));
    for (const NamedTensor& t : tensors) map[t.name] = file;
  }
  if (files.size() > 1) {
    write_text(folder / "model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
  }
}
inline void write_checkpoint(const std::filesystem::path& folder, const nlohmann::json& fixture) {
  write_checkpoint(folder, fixture, fixture_files(fixture));
}

/// The sources that the fixture's tokens belong to: seeded ordinary ids of the stored lengths.
inline std::vector<std::vector<int32_t>> fixture_sources(const std::string& variant,
                                                         const nlohmann::json& fixture) {
  const nlohmann::json& generation = fixture.at("generation");
  std::vector<int32_t> ordinary;
  for (int32_t id = 0; id < fixture.at("config").at("vocab_size").get<int32_t>(); ++id) {
    bool special = false;
    for (const char* key : {"pad_token_id", "eos_token_id", "decoder_start_token_id"}) {
      special = special || generation.at(key) == id;
    }
    if (!special) ordinary.push_back(id);
  }
  const uint64_t key = stream_key(fixture.at("seed"), variant + ".ids");
  std::vector<std::vector<int32_t>> sources;
  for (const int length : fixture.at("lengths").get<std::vector<int>>()) {
    std::vector<int32_t> ids;
    for (int i = 0; i < length; ++i) {
      const uint64_t at = static_cast<uint64_t>(sources.size()) << 32 | static_cast<uint32_t>(i);
      ids.push_back(ordinary[uniform_below(key, at, static_cast<uint32_t>(ordinary.size()))]);
    }
    sources.push_back(std::move(ids));
  }
  return sources;
}

}  // namespace tandem::testing
