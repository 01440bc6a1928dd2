// What a model's name and its positions say of it, apart from its fields.
#pragma once

#include <optional>
#include <string>

#include "harness/model/config.h"

namespace tandem {

/// Is `spec` a path and no preset: it has a '/', ends in .json, or names a folder and no preset (which wins over one)?
bool is_model_path(const std::string& spec);

/// The longest sequence that the model's positions serve. Nothing where they are computed as far as a sequence goes: none,
/// relative, the paper's sinusoids and those of fairseq's models (M2M100). Marian's are computed too, but its published
/// code reads them from a table of max_positions rows and fails beyond it.
std::optional<int> position_limit(const ModelConfig& config);

}  // namespace tandem
