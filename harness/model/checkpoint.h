// A Hugging Face checkpoint folder, read as it is: config.json, generation_config.json and one or several safetensors
// files, mapped. Its tensors are copied straight into an arena of our layout.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "harness/model/config.h"
#include "harness/model/generation.h"
#include "harness/model/hugging_face.h"
#include "harness/model/safetensors.h"
#include "harness/model/weights.h"

namespace tandem {

class Checkpoint {
 public:
  /// Reads configurations and headers, and matches tensors: every tensor of the model is there, in its shape and as
  /// F32, F16 or BF16, and no other one is. Tables that the family ties are taken once when the folder holds them
  /// several times with equal bytes, and as tables of their own when the bytes differ. Throws IoError for a file that
  /// is missing, and UsageError naming file, field or tensors for everything else.
  explicit Checkpoint(const std::string& folder);

  Family family() const { return family_; }
  const ModelConfig& config() const { return config_; }
  const GenerationConfig& generation() const { return generation_; }

  /// Fills `arena` (layout.elements of `dtype`: kF32, kF16 or kBF16; padding becomes 0), rounding to nearest even.
  /// `layout` may be that of a witness: fewer layers and a smaller vocabulary, which take the first ones. Returns the
  /// checkpoint's names of tensors with a NaN among what was read. Throws Error when the layout is not of this model.
  std::vector<std::string> read(const WeightLayout& layout, DType dtype, std::span<std::byte> arena) const;

 private:
  struct Source {
    std::string name;  // the checkpoint's
    const StoredTensor* tensor = nullptr;
  };

  void open_files();
  const StoredTensor* find(const std::string& name) const;
  void resolve_tables(const std::string& prefix, bool tied);
  void match(const std::string& prefix);

  std::string folder_;
  Family family_ = Family::kT5;
  ModelConfig config_;
  GenerationConfig generation_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const StoredTensor*> tensors_;  // by the checkpoint's names
  std::map<std::string, Source> sources_;               // by ours
};

/// "PATH: tensor 'X' holds NaN", one a tensor: what an engine that loads a checkpoint says on stderr.
std::vector<std::string> nan_warnings(const std::string& folder, const std::vector<std::string>& names);

}  // namespace tandem
