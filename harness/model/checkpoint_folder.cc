#include "harness/model/checkpoint_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "harness/base/error.h"
#include "harness/base/json_text.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kSingle = "model.safetensors";

json read_json(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in) throw IoError(fmt::format("{}: cannot read: {}", path.string(), std::strerror(errno)));
  try {
    return parse_json(text.view());
  } catch (const UsageError& e) {
    throw UsageError(fmt::format("{}: {}", path.string(), e.what()));
  }
}

/// The weight files an index names, after checking that it is one.
std::set<std::string> indexed_files(const fs::path& path, const json& index) {
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object() || map->empty()) {
    throw UsageError(fmt::format("{}: weight_map: missing, empty or not an object", path.string()));
  }
  std::set<std::string> files;
  for (const auto& [tensor, file] : map->items()) {
    // A plain name: an index must not lead out of its folder.
    if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos) {
      throw UsageError(fmt::format("{}: weight_map: '{}': {} is not a file of this folder", path.string(),
                                   tensor, shown(file)));
    }
    files.insert(file.get<std::string>());
  }
  return files;
}

bool equal(const StoredTensor& a, const StoredTensor& b) {
  if (&a == &b) return true;
  return a.dtype == b.dtype && a.shape == b.shape && std::ranges::equal(a.bytes, b.bytes);
}

}  // namespace

CheckpointFolder::CheckpointFolder(const std::string& folder) : folder_(folder) {
  const fs::path root(folder);
  const fs::path config_path = root / "config.json";
  const fs::path generation_path = root / "generation_config.json";
  const json config = read_json(config_path);
  const json generation = fs::exists(generation_path) ? read_json(generation_path) : json();

  family_ = about_file(config_path.string(), [&] { return read_family(config); });
  config_ = about_file(config_path.string(), [&] { return read_hf_config(family_, config); });
  config_.name = fs::path(root.filename().empty() ? root.parent_path() : root).filename().string();
  if (config_.name.empty()) config_.name = family_name(family_);
  generation_ = about_file((generation.is_null() ? config_path : generation_path).string(),
                           [&] { return read_generation(generation, config, config_.vocab); });
  about_file(config_path.string(), [&] { take_ids(generation, config); });
  about_file(config_path.string(), [&] { check(config_); });

  open_files(config);
  const bool prefixed = std::any_of(tensors_.begin(), tensors_.end(),
                                    [](const auto& t) { return t.first.starts_with("model."); });
  prefix_ = prefixed ? "model." : "";
  const auto tie = config.find("tie_word_embeddings");
  resolve_tables(tie == config.end() || !tie->is_boolean() || tie->get<bool>());
}

// What seeded inputs and prefixes begin and end with. A folder whose rules name no id is measured all the same: any file's
// ids do then, generation_config.json's first.
void CheckpointFolder::take_ids(const json& generation, const json& config) {
  json ids = json::object();
  for (const char* key : {"pad_token_id", "eos_token_id", "bos_token_id", "decoder_start_token_id"}) {
    for (const json* file : {&config, &generation}) {
      const auto found = file->is_object() ? file->find(key) : file->end();
      if (file->is_object() && found != file->end() && !found->is_null()) ids[key] = *found;
    }
  }
  const GenerationConfig g = read_generation(ids, json(), config_.vocab);
  config_.pad_id = g.pad_id;
  config_.decoder_start_id = g.decoder_start_id == kNoId ? g.pad_id : g.decoder_start_id;
  config_.eos_id = g.eos_ids.empty() ? g.pad_id : g.eos_ids.front();
}

// The one set of weights of a folder that may hold several, in transformers' order: what config.json names, the single
// file, the index.
std::string CheckpointFolder::weights_file(const json& config) const {
  const fs::path root(folder_);
  if (const auto named = config.find("transformers_weights"); named != config.end() && !named->is_null()) {
    const std::string name = named->is_string() ? named->get<std::string>() : "";
    if (name.find('/') != std::string::npos ||
        !(name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"))) {
      throw UsageError(
          fmt::format("{}: transformers_weights: {} is not a *.safetensors or "
                      "*.safetensors.index.json of this folder",
                      (root / "config.json").string(), shown(*named)));
    }
    return name;
  }
  for (const char* name : {kSingle, kIndex}) {
    if (fs::exists(root / name)) return name;
  }
  std::vector<std::string> others;
  for (const auto& entry : fs::directory_iterator(root)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".safetensors" || extension == ".bin")
      others.push_back(entry.path().filename().string());
  }
  std::sort(others.begin(), others.end());
  throw UsageError(fmt::format("{}: no {} and no {} in it{}{}", folder_, kSingle, kIndex,
                               others.empty() ? "" : "; not read: ", fmt::join(others, ", ")));
}

void CheckpointFolder::open_files(const json& config) {
  const fs::path root(folder_);
  const std::string chosen = weights_file(config);
  std::set<std::string> names = {chosen};
  json index;
  if (chosen.ends_with(".json")) {
    index = read_json(root / chosen);
    names = indexed_files(root / chosen, index);
  }
  for (const std::string& name : names) {
    const auto& file = *files_.emplace_back(std::make_unique<SafetensorsFile>((root / name).string()));
    for (const auto& [tensor, stored] : file.tensors()) {
      const auto [at, fresh] = tensors_.emplace(tensor, &stored);
      if (!fresh) {
        throw UsageError(fmt::format("{}: tensor '{}' is in {} too", stored.file, tensor, at->second->file));
      }
    }
  }
  if (index.is_null()) return;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    const StoredTensor* stored = find(tensor);
    if (stored == nullptr || stored->file != (root / file.get<std::string>()).string()) {
      throw UsageError(fmt::format("{}: weight_map: '{}' is not in {}", (root / chosen).string(), tensor,
                                   file.get<std::string>()));
    }
  }
}

const StoredTensor* CheckpointFolder::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : found->second;
}

// Embeddings and head: which tables there are, and which of them are one.
void CheckpointFolder::resolve_tables(bool tied) {
  const TableNames names = hf_tables(family_, prefix_);
  const auto first = [&](std::initializer_list<std::string> candidates) -> CheckpointTensor {
    for (const std::string& name : candidates) {
      if (const StoredTensor* tensor = find(name)) return {name, tensor};
    }
    throw UsageError(fmt::format("{}: missing tensor {}", folder_, names.shared));
  };
  // Writers keep any one of a set of tied tables, so that each may stand for the others.
  const CheckpointTensor encoder = first({names.encoder, names.shared, names.decoder, names.head});
  const CheckpointTensor decoder = first({names.decoder, names.shared, names.head, names.encoder});
  const StoredTensor* head = find(names.head);
  if (head == nullptr && !tied && !is_t5(family_)) {
    throw UsageError(
        fmt::format("{}: missing tensor {}, and config.json does not tie it", folder_, names.head));
  }
  config_.shared_embeddings = equal(*encoder.tensor, *decoder.tensor);
  config_.tied_head = head == nullptr || equal(*head, *decoder.tensor);
  config_.head_bias = !is_t5(family_) && find("final_logits_bias") != nullptr;
  if (config_.shared_embeddings) {
    tables_["shared.embedding"] = encoder;
  } else {
    tables_["encoder.embedding"] = encoder;
    tables_["decoder.embedding"] = decoder;
  }
  if (!config_.tied_head) tables_["head.weight"] = {names.head, head};
}

}  // namespace tandem
