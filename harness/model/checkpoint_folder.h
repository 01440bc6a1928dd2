// A Hugging Face checkpoint folder as its files describe it: config.json, generation_config.json, and the headers of one
// or several safetensors files, mapped. Its values are read by harness/weights/values/checkpoint.h.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "harness/base/error.h"
#include "harness/model/config.h"
#include "harness/model/generation.h"
#include "harness/model/hugging_face.h"
#include "harness/model/safetensors.h"

namespace tandem {

/// A tensor of ours in a checkpoint.
struct CheckpointTensor {
  std::string name;  ///< the checkpoint's
  const StoredTensor* tensor = nullptr;
};

class CheckpointFolder {
 public:
  /// Reads configurations and headers, and decides which tables are one: those that the family ties are taken once when
  /// the folder holds them several times with equal bytes, and as tables of their own when the bytes differ. Throws
  /// IoError for a file that is missing, and UsageError naming file, field or tensor for everything else.
  explicit CheckpointFolder(const std::string& folder);

  const std::string& path() const { return folder_; }
  Family family() const { return family_; }
  const ModelConfig& config() const { return config_; }
  const GenerationConfig& generation() const { return generation_; }

  /// "model." for folders whose tensors have it, or "".
  const std::string& prefix() const { return prefix_; }
  /// By the checkpoint's names.
  const std::map<std::string, const StoredTensor*>& tensors() const { return tensors_; }
  /// Null for a name that no file has.
  const StoredTensor* find(const std::string& name) const;
  /// Embeddings and head, by our names.
  const std::map<std::string, CheckpointTensor>& tables() const { return tables_; }

 private:
  void take_ids(const nlohmann::json& generation, const nlohmann::json& config);
  std::string weights_file(const nlohmann::json& config) const;
  void open_files(const nlohmann::json& config);
  void resolve_tables(bool tied);

  std::string folder_;
  std::string prefix_;
  Family family_ = Family::kT5;
  ModelConfig config_;
  GenerationConfig generation_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const StoredTensor*> tensors_;
  std::map<std::string, CheckpointTensor> tables_;
};

/// Runs `body`; a UsageError that it throws names the file.
template <typename Body>
auto about_file(const std::string& path, Body&& body) {
  try {
    return body();
  } catch (const UsageError& e) {
    throw UsageError(path + ": " + e.what());
  }
}

}  // namespace tandem
