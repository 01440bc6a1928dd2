// What rank 0 tells the others, as JSON. All ranks run the same binary, so that enumerations go as numbers.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "harness/engine/engine.h"
#include "harness/record/record.h"

namespace tandem {

nlohmann::json form_to_json(const WeightForm& form);
WeightForm form_from_json(const nlohmann::json& j);

nlohmann::json batch_to_json(const TransformerBatch& batch);
TransformerBatch batch_from_json(const nlohmann::json& j);

nlohmann::json scales_to_json(const ChannelScales& scales);
ChannelScales scales_from_json(const nlohmann::json& j);

nlohmann::json repetition_to_json(const Repetition& r);
Repetition repetition_from_json(const nlohmann::json& j);

/// What a rank reads of its card between blocks of samples.
struct RankReading {
  ClockBlock block;
  std::optional<bool> contended;
};
nlohmann::json reading_to_json(const RankReading& r);
RankReading reading_from_json(const nlohmann::json& j);

/// A reading that may be absent.
nlohmann::json optional_to_json(const std::optional<double>& v);
std::optional<double> optional_number(const nlohmann::json& j);

nlohmann::json check_result_to_json(const CheckResult& r);
CheckResult check_result_from_json(const nlohmann::json& j);

/// What `error` was, and back: of the same kind, its message with "rank N: " before it.
nlohmann::json error_to_json(const std::exception& error);
[[noreturn]] void throw_error_of(const nlohmann::json& j, int rank);

}  // namespace tandem
