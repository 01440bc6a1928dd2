// The values of a Hugging Face checkpoint folder, read as they are: tensors are matched with ours and copied straight into
// an arena of our layout.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "harness/model/checkpoint_folder.h"
#include "harness/weights/weights.h"

namespace tandem {

class Checkpoint {
 public:
  /// Opens the folder and matches tensors: every tensor of the model is there, in its shape and as F32, F16 or BF16, and
  /// no other one is. Throws what CheckpointFolder throws, and UsageError naming file and tensors.
  explicit Checkpoint(const std::string& folder);

  Family family() const { return folder_.family(); }
  const ModelConfig& config() const { return folder_.config(); }
  const GenerationConfig& generation() const { return folder_.generation(); }

  /// Fills `arena` (layout.elements of `dtype`: kF32, kF16 or kBF16; padding becomes 0), rounding to nearest even.
  /// `layout` may be that of a witness: fewer layers and a smaller vocabulary, which take the first ones. Returns the
  /// checkpoint's names of tensors with a NaN among what was read. Throws Error when the layout is not of this model.
  std::vector<std::string> read(const WeightLayout& layout, DType dtype, std::span<std::byte> arena) const;

 private:
  CheckpointFolder folder_;
  std::map<std::string, CheckpointTensor> sources_;  // by our names
};

/// "PATH: tensor 'X' holds NaN", one a tensor: what an engine that loads a checkpoint says on stderr.
std::vector<std::string> nan_warnings(const std::string& folder, const std::vector<std::string>& names);

}  // namespace tandem
