// Which process and device a rank is.
#pragma once

#include <nlohmann/json.hpp>

#include "harness/card/nvml.h"
#include "harness/record/record.h"
#include "harness/run/registry.h"

namespace tandem {

/// Of this process, whose engine has these traits and uses this device.
RankRecord rank_facts(const EngineRegistry& registry, EngineTraits engine, int rank, int device,
                      const NvmlFunctions* functions);

nlohmann::json facts_to_json(const RankRecord& r);
RankRecord facts_from_json(const nlohmann::json& j);

}  // namespace tandem
