// The values of a Hugging Face checkpoint folder, read as they are.
#pragma once

#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "harness/model/checkpoint_folder.h"
#include "harness/weights/values/source.h"

namespace tandem {

class Checkpoint : public WeightSource {
 public:
  /// Opens the folder and matches tensors: every tensor of the model is there, in its shape and as F32, F16 or BF16, and
  /// no other one is. Throws what CheckpointFolder throws, and UsageError naming file and tensors.
  explicit Checkpoint(const std::string& folder);

  Family family() const { return folder_.family(); }
  const ModelConfig& config() const { return folder_.config(); }
  const GenerationConfig& generation() const { return folder_.generation(); }

  /// `tensor` may be that of a witness: fewer layers and a smaller vocabulary, which take the first ones.
  void read(const WholeTensor& tensor, const Rectangle& at, std::span<float> out) const override;
  std::string key() const override;
  /// "PATH: tensor 'X' holds NaN" for each tensor that had one in what was read so far: what an engine says on stderr.
  std::vector<std::string> warnings() const override;

 private:
  CheckpointFolder folder_;
  std::map<std::string, CheckpointTensor> sources_;  // by our names
  mutable std::set<std::string> with_nan_;           // the checkpoint's names
};

}  // namespace tandem
