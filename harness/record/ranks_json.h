// A record's `ranks`. Internal to the record.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "harness/record/record.h"

namespace tandem {

nlohmann::json ranks_to_json(const std::vector<RankRecord>& ranks);
RankRecord rank_from_json(const nlohmann::json& j);

}  // namespace tandem
