// What Hugging Face's families are in our words: config.json, and the names of their tensors. Sources: transformers'
// configuration_*.py and modeling_*.py of t5, mt5, bart, mbart, marian and m2m_100.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "harness/model/config.h"

namespace tandem {

enum class Family : uint8_t { kT5, kMt5, kBart, kMbart, kMarian, kM2m100 };
std::string_view family_name(Family family);  // t5 mt5 bart mbart marian m2m_100, as model_type spells them
inline bool is_t5(Family family) {
  return family == Family::kT5 || family == Family::kMt5;
}

/// The family of a config.json. Throws UsageError naming the supported ones.
Family read_family(const nlohmann::json& config);

/// The model of a config.json, as its family's code computes it. What only the tensors and generation_config.json
/// can say is left at its default: shared_embeddings, tied_head, head_bias, pad_id, eos_id, decoder_start_id. Throws
/// UsageError naming the field.
ModelConfig read_hf_config(Family family, const nlohmann::json& config);

/// Tables that families share between both embeddings and the head, as a checkpoint may name them. `prefix` is
/// "model." for families that have it, or "" for a checkpoint of the model without its head.
struct TableNames {
  std::string shared, encoder, decoder, head;
};
TableNames hf_tables(Family family, const std::string& prefix);

/// A checkpoint's name of any other tensor of ours ("decoder.layers.0.cross.k.weight"). `gated` is the model's.
std::string hf_name(Family family, const std::string& prefix, const std::string& name, bool gated);

/// Tensors that a checkpoint of the family may hold and that nothing reads: computed tables, version marks, the
/// relative bias that old T5 checkpoints have in cross-attention.
bool hf_ignored(Family family, std::string_view name);

}  // namespace tandem
