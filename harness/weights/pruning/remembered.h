// What pruning has decided, kept for the other workers of a run: a decision reads the whole model.
#pragma once

#include <string>

#include "harness/memory/level1_cache.h"
#include "harness/weights/pruning/prune.h"

namespace tandem {

/// prune(), or what it decided before in this run. `cache` null, or without room: prune() itself. `content` names the values, where
/// the source's own key is a path. Throws what prune() throws.
Pruning remembered_pruning(Level1Cache* cache, const std::string& content, const WeightSource& source,
                           const ModelConfig& config, const WeightForm& form,
                           const MatrixPruner& matrices = {});

}  // namespace tandem
